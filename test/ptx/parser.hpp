// parser.hpp - reads a PTX module.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "ptx/syntax.hpp"

namespace ptx {

/// `text` as nvcc or clang emit it, for .address_size 64. Error("file:line: ...") for whatever does not read as PTX.
[[nodiscard]] std::unique_ptr<const syntax::Module> parse(std::string text, std::string file);

}  // namespace ptx
