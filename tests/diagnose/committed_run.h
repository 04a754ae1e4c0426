// A run of a model by the reference, with mistakes of the catalogue committed, as a trace.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "diagnose/diagnose.h"
#include "diagnose/hypothesis.h"
#include "diagnose/replay.h"
#include "gguf/temporary_folder.h"
#include "trace/trace.h"

namespace plumb::diagnose::testing {

// PLUMB_CORPUS_SHARE=n tries every n-th mistake alone: for builds that are slow.
inline std::size_t corpus_share() {
  const char* const share = std::getenv("PLUMB_CORPUS_SHARE");
  return share == nullptr ? 1 : std::max<std::size_t>(1, std::strtoul(share, nullptr, 10));
}

// Rows of a prompt of n_prompt tokens and steps of one token each after it.
inline std::vector<backends::Row> rows_of(const std::vector<backends::TokenId>& tokens, std::uint32_t n_prompt) {
  std::vector<backends::Row> rows;
  for (std::uint32_t i = 0; i < tokens.size(); ++i) {
    rows.push_back({.token = tokens[i], .sequence = i < n_prompt ? 0 : i - n_prompt + 1, .position = i});
  }
  return rows;
}

// All values of a run, its tokens being given.
inline Result<trace::Trace> run_as_trace(const model::Model& model, const std::vector<backends::TokenId>& tokens,
                                         std::uint32_t n_prompt, const std::vector<Commit>& mistakes,
                                         const std::filesystem::path& path, std::vector<trace::Parameter> parameters = {}) {
  const plan::Plan& plan = *model.plan();
  const std::vector<backends::Row> rows = rows_of(tokens, n_prompt);
  std::vector<std::uint32_t> all(tokens.size());
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  Replay replay(model, rows, nullptr, all, 1);
  for (const Commit& commit : mistakes) replay.commit(commit);
  const std::uint32_t n_steps = static_cast<std::uint32_t>(tokens.size()) - n_prompt;
  const trace::Info info{.engine = "test",
                         .model = "test",
                         .model_sha256 = {},
                         .prompt = {},
                         .tokens = tokens,
                         .positions = {},
                         .parameters = std::move(parameters)};
  PLUMB_TRY(auto writer, trace::Writer::create(path, info, plan.values.size() * (1 + n_steps)));
  for (std::uint32_t step = 0; step <= n_steps; ++step) {
    const std::size_t first = step == 0 ? 0 : n_prompt + step - 1, n = step == 0 ? n_prompt : 1;
    for (std::uint32_t v = 0; v < plan.values.size(); ++v) {
      const std::size_t width = plan.values[v].width;
      const Values value = replay.value(plan::ValueId{v});
      PLUMB_CHECK(writer.add(step, plan.values[v].name, n, width, std::span(*value).subspan(first * width, n * width)));
    }
  }
  PLUMB_CHECK(writer.finish(info));
  return trace::Trace::open(path);
}

}  // namespace plumb::diagnose::testing
