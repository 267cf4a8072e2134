// decoder.hpp - turns a parsed kernel and the functions that it calls into a Kernel.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "ptx/operation.hpp"

namespace ptx {

/// `globals`: addresses of the module's .global and .const variables. Error with file and line for what is not known.
[[nodiscard]] std::unique_ptr<const Kernel> decode(const syntax::Module& module, const syntax::Function& kernel,
                                                   const std::map<std::string_view, u64>& globals);

}  // namespace ptx
