// Chat templates against what Python's jinja2 makes of them, set up as transformers does it (goldens by
// tools/make_template_goldens.py), and the bounds that an untrusted template meets.
#include "text/chat_template.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace plumb::text {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const std::filesystem::path kData = std::filesystem::path(PLUMB_TEST_DATA) / "text/templates";
const std::filesystem::path kShared = std::filesystem::path(PLUMB_SHARED) / "data/chat-templates";

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

Json file_json(const std::filesystem::path& path) { return Json::parse(file_text(path)); }

// 14 March 2025, 15:09:26.535897 local time: the moment of the goldens.
std::chrono::system_clock::time_point golden_time() {
  std::tm moment{};
  moment.tm_year = 125;
  moment.tm_mon = 2;
  moment.tm_mday = 14;
  moment.tm_hour = 15;
  moment.tm_min = 9;
  moment.tm_sec = 26;
  moment.tm_isdst = -1;
  return std::chrono::system_clock::from_time_t(std::mktime(&moment)) + std::chrono::microseconds(535897);
}

Result<std::string> rendered(std::string_view source, const Json& variables, const TemplateLimits& limits = {}) {
  PLUMB_TRY(const ChatTemplate parsed, ChatTemplate::parse(source, limits));
  return parsed.render(variables, golden_time());
}

Json variables_of(const Json& conversation, const Json& defaults) {
  Json variables = defaults;
  for (const auto& [key, value] : conversation.items()) {
    if (key != "name") variables[key] = value;
  }
  return variables;
}

// FNV-1a, 64 bits: other people's templates are not in this repository, and neither is the text that they make.
std::string hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

// `expected` holds "text", or "hash" and "bytes", or "error": a message, or null for any.
void expect_golden(const Result<std::string>& actual, const Json& expected) {
  if (expected.contains("error")) {
    ASSERT_FALSE(actual.has_value()) << "an error was expected, not:\n" << *actual;
    EXPECT_THAT(actual.error().message, HasSubstr("chat template"));
    if (expected["error"].is_string()) {
      EXPECT_THAT(actual.error().message, HasSubstr(expected["error"].get<std::string>()));
    }
    return;
  }
  ASSERT_TRUE(actual.has_value()) << actual.error().message;
  if (expected.contains("text")) {
    EXPECT_EQ(*actual, expected["text"].get<std::string>());
  } else {
    EXPECT_EQ(actual->size(), expected["bytes"].get<std::size_t>());
    EXPECT_EQ(hash_of(*actual), expected["hash"].get<std::string>()) << *actual;
  }
}

void expect_all_conversations(const std::string& source, const Json& goldens) {
  const Json stored = file_json(kData / "conversations.json");
  ASSERT_EQ(stored["conversations"].size(), goldens.size());
  for (const Json& conversation : stored["conversations"]) {
    const auto name = conversation["name"].get<std::string>();
    SCOPED_TRACE("conversation: " + name);
    expect_golden(rendered(source, variables_of(conversation, stored["defaults"])), goldens.at(name));
  }
}

TEST(ChatTemplate, EveryFeatureDoesWhatJinjaDoes) {
  const Json stored = file_json(kData / "conversations.json");
  const Json variables = variables_of(stored["conversations"][0], stored["defaults"]);
  const Json all = file_json(kData / "features.json");
  for (const auto& [name, expected] : all.items()) {
    SCOPED_TRACE(name);
    expect_golden(rendered(file_text(kData / "features" / name), variables), expected);
  }
}

TEST(ChatTemplate, TemplatesInTheMannerOfKnownModels) {
  const Json all = file_json(kData / "styles.json");
  for (const auto& [name, goldens] : all.items()) {
    SCOPED_TRACE(name);
    expect_all_conversations(file_text(kData / "styles" / name), goldens);
  }
}

TEST(ChatTemplate, TemplatesOfKnownModels) {
  if (!std::filesystem::exists(kShared)) GTEST_SKIP() << "needs the templates in " << kShared;
  const Json all = file_json(kData / "shared.json");
  for (const auto& [name, golden] : all.items()) {
    SCOPED_TRACE(name);
    const std::string source = file_text(kShared / name);
    ASSERT_EQ(hash_of(source), golden["hash"].get<std::string>()) << "the template is not the one of the golden";
    expect_all_conversations(source, golden["cases"]);
  }
}

// What transformers' _alias_reasoning_fields makes of the same messages.
TEST(RenderChat, AMessageHasItsReasoningUnderAllNames) {
  const auto chat_template = ChatTemplate::parse(
      "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ [tools, documents, add_generation_prompt, bos_token] }}");
  ASSERT_TRUE(chat_template.has_value()) << chat_template.error().message;
  ChatInput input;
  input.bos_token = "<s>";
  input.messages = Json::parse(R"([
    {"role": "assistant", "reasoning": "r"},
    {"role": "assistant", "thinking": "t", "reasoning": "r"},
    {"role": "assistant", "reasoning_content": "c", "thinking": "t"},
    {"role": "assistant", "reasoning_content": null, "thinking": null, "reasoning": ""},
    {"role": "user", "content": "no reasoning", "thinking": null}
  ])");
  const auto text = render_chat(*chat_template, input);
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(*text,
            R"({"thinking": "r", "role": "assistant", "reasoning": "r", "reasoning_content": "r"}
{"thinking": "t", "role": "assistant", "reasoning": "r", "reasoning_content": "t"}
{"thinking": "t", "role": "assistant", "reasoning_content": "c"}
{"thinking": null, "role": "assistant", "reasoning_content": "", "reasoning": ""}
{"role": "user", "content": "no reasoning", "thinking": null}
[None, None, True, '<s>'])");
}

}  // namespace
}  // namespace plumb::text
