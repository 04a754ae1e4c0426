// The trace of a reference run with mistakes of the catalogue.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "diagnose/diagnose.h"
#include "diagnose/hypothesis.h"
#include "diagnose/replay.h"
#include "gguf/temporary_folder.h"
#include "trace/trace.h"

namespace plumb::diagnose::testing {

// Whether to try mistake i of a corpus. PLUMB_CORPUS_SHARE=N tries every N-th only, for slow builds. PLUMB_CORPUS_SHARE=N:K
// tries the K-th of N shares, so that N processes try all.
inline bool is_of_share(std::size_t i) {
  const char* const share = std::getenv("PLUMB_CORPUS_SHARE");
  if (share == nullptr) return true;
  char* end = nullptr;
  const std::size_t n = std::max<std::size_t>(1, std::strtoul(share, &end, 10));
  return i % n == (*end == ':' ? std::strtoul(end + 1, nullptr, 10) : 0);
}

// Rows of a prompt of n_prompt tokens and steps of one token each after it.
inline std::vector<backends::Row> rows_of(const std::vector<backends::TokenId>& tokens, std::uint32_t n_prompt) {
  std::vector<backends::Row> rows;
  for (std::uint32_t i = 0; i < tokens.size(); ++i) {
    rows.push_back({.token = tokens[i], .sequence = i < n_prompt ? 0 : i - n_prompt + 1, .position = i});
  }
  return rows;
}

// The values of a run over given tokens: all values, or those wanted.
inline Result<trace::Trace> as_trace(Replay& replay, const std::vector<backends::TokenId>& tokens, std::uint32_t n_prompt,
                                     const std::filesystem::path& path, std::vector<trace::Parameter> parameters = {},
                                     const std::function<bool(const std::string& name)>& wanted = {}) {
  const plan::Plan& plan = replay.plan();
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
      if (wanted && !wanted(plan.values[v].name)) continue;
      const std::size_t width = plan.values[v].width;
      const Values value = replay.value(plan::ValueId{v});
      PLUMB_CHECK(writer.add(step, plan.values[v].name, n, width, std::span(*value).subspan(first * width, n * width)));
    }
  }
  PLUMB_CHECK(writer.finish(info));
  return trace::Trace::open(path);
}

inline Result<trace::Trace> run_as_trace(const model::Model& model, const std::vector<backends::TokenId>& tokens,
                                         std::uint32_t n_prompt, const std::vector<Commit>& mistakes,
                                         const std::filesystem::path& path, std::vector<trace::Parameter> parameters = {},
                                         const std::function<bool(const std::string& name)>& wanted = {}) {
  const std::vector<backends::Row> rows = rows_of(tokens, n_prompt);
  std::vector<std::uint32_t> all(tokens.size());
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  Replay replay(model, rows, nullptr, all, 1);
  for (const Commit& commit : mistakes) replay.commit(commit);
  return as_trace(replay, tokens, n_prompt, path, std::move(parameters), wanted);
}

}  // namespace plumb::diagnose::testing
