// version.hpp - which seqccl this is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#define SEQCCL_VERSION_MAJOR 0
#define SEQCCL_VERSION_MINOR 1
#define SEQCCL_VERSION_PATCH 0
#define SEQCCL_VERSION (SEQCCL_VERSION_MAJOR * 10000 + SEQCCL_VERSION_MINOR * 100 + SEQCCL_VERSION_PATCH)

// Everything lives in seqccl::v0, an inline namespace: two ABI generations can share one process without mixing.
#define SEQCCL_BEGIN namespace seqccl::inline v0 {
#define SEQCCL_END }
