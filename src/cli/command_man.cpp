// Manual pages in roff, by the macros of man(7), made from the parsers' own list of commands and options.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/letter_case.h"
#include "cli/command.h"
#include "cli/described.h"

namespace plumb::cli {

namespace {

// A text that roff prints as it is: its escape character, hyphens and leading dots have meanings of their own there.
std::string roff(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const bool starts_line = escaped.empty() || escaped.back() == '\n';
    if (starts_line && (c == '.' || c == '\'')) escaped += "\\&";
    if (c == '\\') {
      escaped += "\\e";
    } else if (c == '-') {
      escaped += "\\-";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string page_name(const DescribedCommand& command) { return command.name.empty() ? "plumb" : "plumb-" + command.name; }

// "-p, --prompt TEXT", in bold but for the value.
std::string heading(const DescribedOption& option) {
  std::string line;
  for (const std::string& name : option.names) {
    line += fmt::format("{}\\fB{}\\fR", line.empty() ? "" : ", ", roff(name));
  }
  if (option.value.empty() || option.positional) return line;
  const std::string value = option.choices.empty() || option.other_values
                                ? fmt::format("\\fI{}\\fR", option.value)
                                : roff(fmt::format("{}", fmt::join(option.choices, "|")));
  return line + (option.optional_value ? fmt::format(" [{}]", value) : " " + value);
}

std::string entry(const DescribedOption& option) {
  std::string lines = fmt::format(".TP\n{}\n{}", heading(option), roff(option.description));
  if (!option.standard.empty()) lines += fmt::format(" (default: {})", roff(option.standard));
  return lines + "\n";
}

std::string synopsis(const DescribedCommand& command) {
  std::string line = fmt::format("\\fBplumb {}\\fR [\\fIoptions\\fR]", roff(command.name));
  for (const DescribedOption& option : command.options) {
    if (!option.positional) continue;
    const std::string argument = fmt::format("\\fI{}\\fR{}", option.names.front(), option.repeated ? "..." : "");
    line += option.required ? " " + argument : " [" + argument + "]";
  }
  return line + "\n";
}

std::string options_of(const DescribedCommand& command) {
  std::string page;
  std::string group;
  for (const DescribedOption& option : command.options) {
    const std::string title = option.positional ? "arguments" : option.group;
    if (title != group) page += fmt::format(".SH {}\n", in_capital_letters(title));
    group = title;
    page += entry(option);
  }
  return page;
}

std::string page(const DescribedCommand& command, std::span<const DescribedCommand> commands) {
  const bool whole = command.name.empty();
  std::string page =
      fmt::format(".TH \"{}\" 1 \"\" \"plumb {}\" \"Plumb\"\n", in_capital_letters(page_name(command)), PLUMB_VERSION);
  page += fmt::format(".SH NAME\n{} \\- {}\n.SH SYNOPSIS\n", roff(page_name(command)), roff(command.summary));
  if (!whole) {
    page += synopsis(command);
    for (const std::string& alias : command.aliases) page += fmt::format(".br\n\\fBplumb {}\\fR ...\n", roff(alias));
    page += options_of(command);
  } else {
    page += "\\fBplumb\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]\n.br\n\\fBplumb\\fR \\fIMODEL\\fR [\\fIPROMPT\\fR]\n";
    page += ".SH COMMANDS\n";
    for (const DescribedCommand& other : commands.subspan(1)) {
      page += fmt::format(".TP\n\\fB{}\\fR\n{}; see \\fB{}\\fR(1)\n", roff(other.name), roff(other.summary),
                          roff(page_name(other)));
    }
    page += options_of(command);
  }
  page +=
      ".SH EXIT STATUS\n"
      ".TP\n0\nDone.\n"
      ".TP\n1\nDone, and the answer is \"no\": a test failed, a fault was found.\n"
      ".TP\n2\nBad usage, or an input that cannot be read; standard error says which.\n";
  page +=
      ".SH FILES\n.TP\n\\fI~/.cache/plumb/models\\fR\n"
      "Fetched models. \\fBXDG_CACHE_HOME\\fR moves the folder \\fI.cache\\fR, \\fBPLUMB_CACHE\\fR the folder "
      "\\fIplumb\\fR.\n";
  if (!whole) page += ".SH SEE ALSO\n\\fBplumb\\fR(1)\n";
  return page;
}

}  // namespace

Action setup_man(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  app.add_option("COMMAND", *name, "The command that the page is about; without it, a page about plumb");
  return [name, &app]() -> Result<int> {
    const std::vector<DescribedCommand> commands = described(*app.get_parent());
    const auto found = std::ranges::find(commands, *name, &DescribedCommand::name);
    if (found == commands.end()) return fail("there is no command '{}'", *name);
    return print(page(*found, commands));
  };
}

}  // namespace plumb::cli
