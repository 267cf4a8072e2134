// refusal.hpp - what a wrong argument is answered with.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "seqccl/error.hpp"

namespace seqccl::test {

/// The text of the Error(argument) that `call` throws; anything else fails the test.
template <class Call>
[[nodiscard]] std::string refusal(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "expected an error";
  return {};
}

}  // namespace seqccl::test

/// `call` is refused with an error that holds `words`.
#define EXPECT_REFUSED(words, ...) EXPECT_PRED_FORMAT2(testing::IsSubstring, words, seqccl::test::refusal([&] { (void)(__VA_ARGS__); }))
