// transport.hpp - faults that a user asks for with SEQCCL_FAULT, to see what his program does when a rank fails.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "seqccl/transport.hpp"
#include "spec.hpp"

SEQCCL_BEGIN
namespace fault {

/// What SEQCCL_FAULT asks for; nothing if it is not set. The caller says what a rank is: a fault that ends or stops the process is refused
/// where ranks are threads, as the library never ends its host. @throws Error(argument)
enum class Ranks : std::uint8_t { threads, processes };
[[nodiscard]] std::vector<Spec> asked_for(Ranks ranks);

/// `inner` itself if no fault is for its rank, so that nothing is paid; else an end that passes everything on and fails as asked. Says so
/// through the log sink.
[[nodiscard]] std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> inner, const std::vector<Spec>& specs);

}  // namespace fault
SEQCCL_END
