// explain_test.cpp - the page and the picture say what the schedules cost.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/explain.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/cost.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl {
namespace {

/// A ring in which rank r treats tokens proportional to r + 1, so that ranks differ.
std::vector<Schedule> uneven_ring(int num_ranks, const std::string& title = "uneven ring") {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    Recorder plan{title, rank, num_ranks};
    const auto tokens = [](Rank owner) { return std::int64_t{256} * (owner + 1); };
    const Rank left = (rank + num_ranks - 1) % num_ranks, right = (rank + 1) % num_ranks;
    Block current = plan.input(Tensor::k, f32, {1, tokens(rank), 1, 1}, true);
    for (int i = 0; i < num_ranks; ++i) {
      const Rank owner = (rank + i) % num_ranks;
      Block next;
      if (i + 1 < num_ranks) {
        next = plan.scratch(f32, {1, tokens((owner + 1) % num_ranks), 1, 1});
        plan.exchange({{left, current}}, {{right, next}}, Lane::comm, Native::none, (owner + 1) % num_ranks);
      }
      Custom op;
      op.in[0] = current;
      plan.compute(op, owner);
      current = next;
    }
    schedules.push_back(std::move(plan).finish("test"));
  }
  return schedules;
}

Cluster slow_links() {
  Cluster cluster;
  cluster.inside = {2e-6, 1e9};
  cluster.between = {5e-6, 250e6};
  cluster.topology.node = {0, 0, 1, 1};
  return cluster;
}

/// The first line of `text` that begins with `start`.
std::string line_of(const std::string& text, const std::string& start) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(start, 0) == 0) return line;
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t number = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++number;
  return number;
}

// --- Units. -----------------------------------------------------------------------------------------------------------

TEST(Human, Bytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(8), "8 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(12 * 1024), "12.0 KiB");
  EXPECT_EQ(human_bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(human_bytes(1.5 * 1024 * 1024 * 1024), "1.5 GiB");
  EXPECT_EQ(human_bytes(2048.0 * 1024 * 1024 * 1024 * 1024 * 1024), "2048.0 PiB");
}

TEST(Human, Seconds) {
  EXPECT_EQ(human_seconds(0), "0 s");
  EXPECT_EQ(human_seconds(250e-9), "250 ns");
  EXPECT_EQ(human_seconds(3e-6), "3.0 us");
  EXPECT_EQ(human_seconds(1.25e-3), "1.25 ms");
  EXPECT_EQ(human_seconds(12.34e-3), "12.3 ms");
  EXPECT_EQ(human_seconds(999.4e-6), "999 us");
  EXPECT_EQ(human_seconds(999.7e-6), "1.0 ms");
  EXPECT_EQ(human_seconds(9.996e-6), "10.0 us");
  EXPECT_EQ(human_seconds(99.97e-6), "100 us");
  EXPECT_EQ(human_seconds(7384), "7384 s");
  EXPECT_EQ(human_seconds(-3e-6), "-3.0 us");
  EXPECT_EQ(human_seconds(-1e-19), "0 s") << "what subtraction leaves";
}

// --- The page. --------------------------------------------------------------------------------------------------------

TEST(Explain, BytesAndMessagesAreThoseOfTheCosts) {
  const auto schedules = uneven_ring(4);
  const Cluster cluster = slow_links();
  const std::string text = explain(schedules, simulate(schedules, cluster), cluster);
  for (const bool is_inside : {true, false}) {
    double bytes = 0, most_sent = 0, most_received = 0;
    std::uint64_t messages = 0;
    for (const Schedule& schedule : schedules) {
      const Cost cost = cost_of(schedule);
      double sent = 0, received = 0;
      for (Rank peer = 0; peer < 4; ++peer) {
        if (cluster.topology.same_node(schedule.rank, peer) != is_inside) continue;
        sent += static_cast<double>(cost.sent_bytes[peer]);
        received += static_cast<double>(cost.received_bytes[peer]);
        messages += cost.sent_messages[peer];
      }
      bytes += sent;
      most_sent = std::max(most_sent, sent);
      most_received = std::max(most_received, received);
    }
    ASSERT_GT(bytes, 0);
    const std::string line = line_of(text, is_inside ? "inside nodes" : "between nodes");
    std::istringstream words(line.substr(is_inside ? 12 : 13));
    std::string number, unit;
    words >> number >> unit;
    EXPECT_EQ(number + " " + unit, human_bytes(bytes)) << line;
    EXPECT_TRUE(has(line, " " + human_bytes(most_sent) + " (rank ")) << line;
    EXPECT_TRUE(has(line, " " + human_bytes(most_received) + " (rank ")) << line;
    EXPECT_TRUE(has(line, "  " + std::to_string(messages) + "  ")) << line;
  }
}

TEST(Explain, NamesRanksTimesWorkspaceAndTheExposingStep) {
  const auto schedules = uneven_ring(4);
  const Cluster cluster = slow_links();
  const Simulation simulation = simulate(schedules, cluster);
  const std::string text = explain(schedules, simulation, cluster);
  EXPECT_EQ(text.substr(0, text.find('\n')), "uneven ring: 4 ranks on 2 nodes");
  EXPECT_TRUE(has(line_of(text, "time"), human_seconds(simulation.seconds)));
  EXPECT_FALSE(has(text, "steps of rank"));

  // Rank 3 holds the largest block itself and so needs the least scratch; rank 0 the most: 256 (2 + 3 + 4) floats.
  EXPECT_TRUE(has(line_of(text, "workspace"), "9.0 KiB at most, on rank 0")) << text;
  EXPECT_TRUE(has(line_of(text, "compute"), "10.2 kflop, balance 1.00")) << text;  // 4 ranks x 256 (1 + 2 + 3 + 4) numbers

  const auto most = std::max_element(simulation.exposed_s.begin(), simulation.exposed_s.end());
  const auto rank = static_cast<Rank>(most - simulation.exposed_s.begin());
  EXPECT_TRUE(has(line_of(text, "exposed"), human_seconds(*most) + " at most")) << text;
  EXPECT_TRUE(has(line_of(text, "exposed"), "on rank " + std::to_string(rank))) << text;
  const int step = simulation.exposing_step[rank];
  ASSERT_GE(step, 0);
  EXPECT_TRUE(has(text, "its step " + std::to_string(step) + ": " + schedules[rank].label(schedules[rank].steps[step]))) << text;
  EXPECT_TRUE(has(text, "5.0 us + bytes / 250 MB/s")) << text;
}

/// Ranks 1 and 2 compute, then send 1 KiB each to rank 0, which computes nothing.
std::vector<Schedule> fan_in() {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < 3; ++rank) {
    Recorder plan{"fan in", rank, 3};
    const Block block = plan.scratch(f32, {1, 512, 1, 1});
    if (rank == 0) {
      plan.exchange({}, {{1, block.tokens(0, 256)}, {2, block.tokens(256, 256)}});
    } else {
      plan.compute(Zero{block});
      plan.exchange({{0, block.tokens(0, 256)}}, {});
    }
    schedules.push_back(std::move(plan).finish("test"));
  }
  return schedules;
}

TEST(Explain, SendsAndReceivesAreTold) {
  const std::string text = explain(fan_in(), simulate(fan_in(), Cluster{}), Cluster{}, 0);
  std::istringstream line(line_of(text, "inside nodes").substr(12));
  std::string words, word;
  while (line >> word) words += (words.empty() ? "" : " ") + word;
  EXPECT_EQ(words, "2.0 KiB 1.0 KiB (rank 1) 2.0 KiB (rank 0) 2 1 (rank 1) 2 (rank 0)") << text;
  EXPECT_TRUE(has(text, "  2.0 KiB in  ")) << text;
}

TEST(Explain, BalanceIsBusiestOverMean) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < 2; ++rank) {
    Recorder plan{"unequal", rank, 2};
    plan.compute(Zero{plan.scratch(f32, {1, rank == 0 ? 1000 : 3000, 1, 1})});
    schedules.push_back(std::move(plan).finish("test"));
  }
  const std::string text = explain(schedules, simulate(schedules, Cluster{}), Cluster{});
  EXPECT_TRUE(has(line_of(text, "compute"), "balance 1.50 (busiest / mean; rank 1 has 3.0 kflop)")) << text;
}

TEST(Explain, StepsOfOneRankWithTheirClocksAndTimes) {
  const auto schedules = uneven_ring(4);
  const Cluster cluster = slow_links();
  const Simulation simulation = simulate(schedules, cluster);
  const std::string text = explain(schedules, simulation, cluster, 2);
  const std::string steps = text.substr(text.find("steps of rank 2"));
  EXPECT_EQ(count(steps, "\n"), schedules[2].steps.size() + 2);
  const std::string line = line_of(steps, "   6  compute 4");  // the last block: rank 1's
  EXPECT_TRUE(has(line, "custom, block of rank 1")) << steps;
  EXPECT_TRUE(has(line, "after comm 3")) << steps;
  EXPECT_TRUE(has(line, "2.0 KiB")) << steps;
  EXPECT_TRUE(has(line, human_seconds(simulation.steps[2][6].begin_s))) << steps;
  EXPECT_TRUE(has(line, human_seconds(simulation.steps[2][6].end_s))) << steps;
  EXPECT_TRUE(has(line_of(steps, "   0  comm 1"), "3.0 KiB out, 4.0 KiB in")) << steps;
}

TEST(Explain, RefusesWrongArguments) {
  const auto schedules = uneven_ring(2);
  const Simulation simulation = simulate(schedules, Cluster{});
  EXPECT_THROW((void)explain(schedules, simulation, Cluster{}, 2), Error);
  EXPECT_THROW((void)explain({}, simulation, Cluster{}), Error);
  EXPECT_THROW((void)explain(uneven_ring(3), simulation, Cluster{}), Error);
  EXPECT_THROW((void)draw({}, simulation), Error);
  EXPECT_THROW((void)draw(uneven_ring(3), simulation), Error);
}

// --- The picture. -----------------------------------------------------------------------------------------------------

/// "" if `text` is well-formed as far as elements, attributes and entities go; else what is wrong.
std::string xml_fault(std::string_view text) {
  std::vector<std::string> open;
  const auto entities_fault = [](std::string_view part) -> std::string {
    for (std::size_t at = part.find('&'); at != std::string_view::npos; at = part.find('&', at + 1)) {
      const std::string_view entity = part.substr(at, part.find(';', at) - at + 1);
      if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;") return "bare &";
    }
    return "";
  };
  std::size_t at = 0;
  bool has_root = false;
  while (at < text.size()) {
    const std::size_t tag = text.find('<', at), begin = tag == std::string_view::npos ? text.size() : tag;
    const std::string_view words = text.substr(at, begin - at);
    if (words.find('>') != std::string_view::npos) return "bare >";
    if (open.empty() && words.find_first_not_of(" \n") != std::string_view::npos) return "text outside the root";
    if (const std::string fault = entities_fault(words); !fault.empty()) return fault;
    if (begin == text.size()) break;
    if (open.empty() && has_root) return "two roots";
    std::size_t i = begin + 1;
    const bool closes = text[i] == '/';
    if (closes) ++i;
    std::string name;
    while (i < text.size() && std::isalpha(static_cast<unsigned char>(text[i]))) name += text[i++];
    if (name.empty()) return "no name of element";
    bool is_empty = false;
    std::vector<std::string> attributes;
    for (;;) {  // attributes
      while (i < text.size() && text[i] == ' ') ++i;
      if (i >= text.size()) return "end inside <" + name;
      if (text[i] == '>') break;
      if (text[i] == '/' && i + 1 < text.size() && text[i + 1] == '>') {
        is_empty = true;
        ++i;
        break;
      }
      const std::size_t equals = text.find("=\"", i);
      if (closes || equals == std::string_view::npos) return "attribute of <" + name;
      const std::string attribute(text.substr(i, equals - i));
      if (attribute.find_first_of(" <>\"/") != std::string::npos) return "attribute '" + attribute + "' of <" + name;
      for (const std::string& other : attributes)
        if (other == attribute) return "attribute twice: " + attribute;
      attributes.push_back(attribute);
      const std::size_t end = text.find('"', equals + 2);
      if (end == std::string_view::npos) return "open quote in <" + name;
      const std::string_view value = text.substr(equals + 2, end - equals - 2);
      if (value.find('<') != std::string_view::npos) return "< in an attribute";
      if (const std::string fault = entities_fault(value); !fault.empty()) return fault;
      i = end + 1;
    }
    if (closes) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing";
      open.pop_back();
    } else if (!is_empty) {
      open.push_back(name);
    }
    has_root = true;
    at = i + 1;
  }
  return open.empty() ? "" : "<" + open.back() + "> is open";
}

TEST(Draw, TheCheckOfXmlSeesFaults) {
  EXPECT_EQ(xml_fault("<a b=\"1\"><c/>x &amp; y</a>\n"), "");
  for (const char* faulty :
       {"<a>", "<a></b>", "<a>&</a>", "<a>x < y</a>", "<a b=1/>", "<a b=\"<\"/>", "<a/><b/>", "<a b=\"1\" b=\"2\"/>", "x<a/>"})
    EXPECT_NE(xml_fault(faulty), "") << faulty;
}

TEST(Draw, IsWellFormedAndHasABlockWithATooltipForEveryStep) {
  for (const int num_ranks : {1, 2, 4, 64}) {
    const auto schedules = uneven_ring(num_ranks, "a <b> & \"c\"");
    const Simulation simulation = simulate(schedules, Cluster{});
    const std::string svg = draw(schedules, simulation);
    EXPECT_EQ(xml_fault(svg), "") << num_ranks;
    EXPECT_TRUE(has(svg, "a &lt;b&gt; &amp; &quot;c&quot;, ")) << num_ranks;
    EXPECT_TRUE(has(svg, "viewBox=\"0 0 1200 "));
    EXPECT_FALSE(has(svg, "nan") || has(svg, "inf"));
    std::size_t num_steps = 0;
    for (const Schedule& schedule : schedules) num_steps += schedule.steps.size();
    EXPECT_EQ(count(svg, ", step "), num_steps) << num_ranks;
    EXPECT_EQ(count(svg, "<title>"), count(svg, "</title>"));
  }
}

TEST(Draw, TooltipsHaveLabelsAndTimes) {
  const auto schedules = uneven_ring(4);
  const Cluster cluster = slow_links();
  const Simulation simulation = simulate(schedules, cluster);
  const std::string svg = draw(schedules, simulation);
  const StepTime time = simulation.steps[2][6];
  EXPECT_TRUE(has(svg, "<title>rank 2 compute, step 6: custom, block of rank 1\n" + human_seconds(time.begin_s) + " to " +
                           human_seconds(time.end_s) + ", "));
  EXPECT_TRUE(has(svg, ">rank 3</text>"));
  EXPECT_TRUE(has(svg, ">custom</text>") && has(svg, ">lane comm</text>") && !has(svg, ">lane comm2</text>")) << "legend";
}

TEST(Draw, MarksTheTimeInWhichARankDoesNotCompute) {
  const auto schedules = uneven_ring(4);
  EXPECT_GT(count(draw(schedules, simulate(schedules, slow_links())), ": does not compute"), 4u);
  Cluster fast = slow_links();
  fast.inside = fast.between = {0, 1e18};
  fast.step_overhead_s = 1;
  EXPECT_EQ(count(draw(schedules, simulate(schedules, fast)), ": does not compute"), 0u);
}

TEST(Draw, MarksTheTimeAfterTheLastComputeStep) {
  const std::string svg = draw(fan_in(), simulate(fan_in(), Cluster{}));
  EXPECT_EQ(count(svg, ": does not compute"), 2u) << "ranks 1 and 2 while they send; rank 0 has no compute lane";
}

TEST(Draw, StaysOfSensibleSize) {
  const auto height = [](const std::string& svg) { return std::stod(svg.substr(svg.find("viewBox=\"0 0 1200 ") + 18)); };
  const auto of = [&](int num_ranks) {
    const auto schedules = uneven_ring(num_ranks);
    return height(draw(schedules, simulate(schedules, Cluster{})));
  };
  EXPECT_LT(of(1), 200);
  EXPECT_LT(of(8), 700);
  EXPECT_LT(of(64), 1600);
}

TEST(Draw, DrawsWhatTakesNoTimeOrHasNoSteps) {
  std::vector<Schedule> schedules;
  schedules.push_back(Recorder{"nothing", 0, 1}.finish("test"));
  EXPECT_EQ(xml_fault(draw(schedules, simulate(schedules, Cluster{}))), "");
}

}  // namespace
}  // namespace seqccl
