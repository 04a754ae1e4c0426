#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

#include "base/printable.h"
#include "diagnose/report.h"

// report_page.S
extern "C" const char plumb_report_page_begin[], plumb_report_page_end[];

namespace plumb::diagnose {

namespace {

// Characters that have a meaning in HTML.
constexpr std::string_view marks = "<>&", entities[] = {"&lt;", "&gt;", "&amp;"};

// JSON text without characters that have a meaning in HTML: they are written as JSON escapes.
std::string embedded(const nlohmann::ordered_json& json) {
  const std::string text = json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    result += marks.find(c) == std::string_view::npos ? std::string(1, c) : fmt::format("\\u{:04x}", c);
  }
  return result;
}

// Text outside of tags.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : printable(text)) {
    const std::size_t mark = marks.find(c);
    result += mark == std::string_view::npos ? std::string(1, c) : std::string(entities[mark]);
  }
  return result;
}

std::string title(const Report& report) {
  const std::string verdict = report.follows()              ? "Follows"
                              : report.faults.size() > 1    ? fmt::format("{} faults", report.faults.size())
                              : report.faults[0].hypothesis ? std::string(report.faults[0].hypothesis->title)
                                                            : "1 fault of unknown cause";
  return fmt::format("{}: {}", report.model, verdict);
}

}  // namespace

std::string to_html(const Report& report) {
  const std::string_view page(plumb_report_page_begin,
                              static_cast<std::size_t>(plumb_report_page_end - plumb_report_page_begin));
  const std::array<std::pair<std::string_view, std::string>, 3> parts = {{{"@title@", escaped(title(report))},
                                                                          {"@text@", escaped(to_text(report, false))},
                                                                          {"@report@", embedded(to_json(report))}}};
  std::string result;
  result.reserve(page.size() + parts[2].second.size() + parts[1].second.size());
  std::size_t at = 0;
  for (const auto& [mark, text] : parts) {
    const std::size_t found = page.find(mark, at);
    result += page.substr(at, found - at);
    result += text;
    at = found + mark.size();
  }
  result += page.substr(at);
  return result;
}

}  // namespace plumb::diagnose
