// output_file.hpp - a file that a user asked for: there whole, or as it was before.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "command/child.hpp"

namespace seqccl::command {

/// Begins a temporary file beside `path`, so that one that cannot be written is refused before long work, and what `path` holds stays
/// until the new text is complete. Without finish() nothing is left.
class OutputFile {
 public:
  /// @throws Error(argument) that names `option` and the file
  OutputFile(std::string option, std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Writes all of it and puts it in place. Once. @throws Error(argument)
  void finish(const std::string& text);

 private:
  [[noreturn]] void fail(const char* what) const;

  std::string option_, path_, temporary_;
  Descriptor file_;
};

}  // namespace seqccl::command
