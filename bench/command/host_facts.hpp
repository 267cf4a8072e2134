// host_facts.hpp - what ranks as processes need of this host, as `seqccl info` says it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace seqccl::command {

/// "yes (...)", or why ranks as processes cannot share memory here.
[[nodiscard]] std::string shm_text();

/// What is left for shared memory, in bytes, and what bounds it.
[[nodiscard]] std::string shared_memory_text();

/// What the kernel does with shared memory that asks for huge pages, and how many are reserved.
[[nodiscard]] std::string huge_pages_text();

}  // namespace seqccl::command
