// log.hpp - where the library says what a user should know and no error tells: nowhere, unless asked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string_view>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// Gets one line without its end, from any thread, one at a time; must not call set_log_sink.
using LogSink = std::function<void(std::string_view line)>;

/// Sends the lines of this process to `sink` from now on; an empty one silences them, as at the start. The library writes to no stream
/// and no file by itself. Any thread.
///
///     set_log_sink([](std::string_view line) { std::cerr << "seqccl: " << line << '\n'; });
void set_log_sink(LogSink sink);

/// Hands one line to the sink, if there is one. What the sink throws is dropped: a log must not end a collective.
void log_line(std::string_view line) noexcept;

SEQCCL_END
