// precompiled.hpp - headers that most tests include, compiled once per test binary in sanitizer builds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "seqccl/seqccl.hpp"
