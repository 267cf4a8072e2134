// seqccl.hpp - everything a user needs. Extenders also include collectives.hpp, recorder.hpp, check.hpp, execute.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/attention.hpp"
#include "seqccl/balance.hpp"
#include "seqccl/bootstrap.hpp"
#include "seqccl/communicator.hpp"
#include "seqccl/context_pass.hpp"
#include "seqccl/decode.hpp"
#include "seqccl/dimension_switch.hpp"
#include "seqccl/documents.hpp"
#include "seqccl/error.hpp"
#include "seqccl/halo_exchange.hpp"
#include "seqccl/linear_attention.hpp"
#include "seqccl/mask.hpp"
#include "seqccl/mesh.hpp"
#include "seqccl/movement.hpp"
#include "seqccl/partition.hpp"
#include "seqccl/rope.hpp"
#include "seqccl/sequence_gather.hpp"
#include "seqccl/tensor.hpp"
#include "seqccl/version.hpp"
#include "seqccl/work.hpp"
