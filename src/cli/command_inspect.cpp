#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <optional>

#include "base/printable.h"
#include "base/progress.h"
#include "cli/command.h"
#include "gguf/kind.h"
#include "model/file_type.h"
#include "plan/parts.h"

namespace plumb::cli {

namespace {

constexpr std::size_t shown_array_items = 4;
constexpr std::size_t shown_text_bytes = 100;
constexpr std::size_t n_bins = 24;

struct InspectOptions {
  std::string model;
  bool yes = false;
  std::string tensor;
  bool check = false;
  bool full = false;  // long values are not cut
  bool json = false;
};

// A name or a value from the file, on one line.
std::string shown(std::string_view text) { return printable(text, Lines::escape); }

// The first n items of an array.
Json items_json(const gguf::Array& array, std::size_t n) {
  Json items = Json::array();
  const auto item = [&]<class T>(const T&, std::size_t i) -> Json {
    if constexpr (std::is_same_v<T, std::string_view>) {
      return array.strings[i];
    } else if constexpr (std::is_same_v<T, gguf::Array>) {
      return items_json(array.arrays[i], std::min<std::size_t>(n, array.arrays[i].count));
    } else {
      return array.at<T>(i);
    }
  };
  const gguf::Value type = gguf::empty_value(array.element);
  for (std::size_t i = 0; i < n; ++i) items.push_back(std::visit([&](const auto& of) { return item(of, i); }, type));
  return items;
}

Json value_json(const gguf::Value& value, bool full) {
  return std::visit(
      [&](const auto& v) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, gguf::Array>) {
          const std::size_t n = full ? v.count : std::min<std::size_t>(v.count, shown_array_items);
          return {{"type", gguf::name(v.element)}, {"count", v.count}, {full ? "items" : "first", items_json(v, n)}};
        } else {
          return v;
        }
      },
      value);
}

std::string one_line(const gguf::Value& value, bool full) {
  if (const auto* array = std::get_if<gguf::Array>(&value)) {
    const std::size_t n = full ? array->count : std::min<std::size_t>(array->count, shown_array_items);
    std::string items = items_json(*array, n).dump(-1, ' ', false, Json::error_handler_t::replace);
    if (array->count > n) items.insert(items.size() - 1, ",…");
    return shown(fmt::format("{} {} {}", array->count, gguf::name(array->element), items));
  }
  std::string text = value_json(value, full).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > shown_text_bytes && !full) {
    std::size_t end = shown_text_bytes;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
    text = text.substr(0, end) + fmt::format("… ({} bytes)", text.size());
  }
  return shown(text);
}

std::string dims_text(const gguf::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.dims.begin(), tensor.dims.begin() + tensor.n_dims, ", "));
}

struct Statistics {
  std::uint64_t n = 0, n_nan = 0, n_inf = 0, n_zero = 0;
  std::uint64_t first_odd = 0;  // index of the first that is not finite
  double min = std::numeric_limits<double>::infinity(), max = -std::numeric_limits<double>::infinity();
  double sum = 0, sum_squares = 0;
  std::array<std::uint64_t, n_bins> histogram{};

  [[nodiscard]] std::uint64_t n_finite() const { return n - n_nan - n_inf; }
  [[nodiscard]] double mean() const { return n_finite() > 0 ? sum / static_cast<double>(n_finite()) : 0; }
  [[nodiscard]] double deviation() const {
    if (n_finite() == 0) return 0;
    return std::sqrt(std::max(0.0, sum_squares / static_cast<double>(n_finite()) - mean() * mean()));
  }
};

template <class Visit>
void each_row(const gguf::Tensor& tensor, const Visit& visit) {
  const quants::FormatInfo& format = quants::info(tensor.format);
  std::vector<float> row(tensor.dims[0]);
  for (std::uint64_t i = 0; i < tensor.n_rows(); ++i) {
    format.decode(tensor.data.data() + i * format.row_bytes(row.size()), row.data(), row.size() / format.block_size);
    visit(row);
  }
}

Statistics statistics(const gguf::Tensor& tensor, bool with_histogram) {
  Statistics s;
  each_row(tensor, [&](const std::vector<float>& row) {
    if (s.n_nan + s.n_inf == 0) {
      const auto odd = std::ranges::find_if(row, [](float x) { return !std::isfinite(x); });
      s.first_odd = s.n + static_cast<std::uint64_t>(odd - row.begin());
    }
    s.n += row.size();
    for (const double x : row) {
      if (std::isnan(x)) {
        ++s.n_nan;
      } else if (std::isinf(x)) {
        ++s.n_inf;
      } else {
        if (x == 0) ++s.n_zero;
        s.min = std::min(s.min, x);
        s.max = std::max(s.max, x);
        s.sum += x;
        s.sum_squares += x * x;
      }
    }
  });
  if (!with_histogram || s.n_finite() == 0) return s;
  const double width = (s.max - s.min) / n_bins;
  each_row(tensor, [&](const std::vector<float>& row) {
    for (const double x : row) {
      if (!std::isfinite(x)) continue;
      const double bin = width > 0 ? (x - s.min) / width : 0;
      ++s.histogram[std::min<std::size_t>(n_bins - 1, static_cast<std::size_t>(bin))];
    }
  });
  return s;
}

Result<int> show_tensor(const InspectOptions& options, const gguf::File& file) {
  const gguf::Tensor* tensor = file.tensor(options.tensor);
  if (tensor == nullptr)
    return fail("{}: there is no tensor named '{}'; 'plumb inspect' lists them", file.label(), options.tensor);
  const Statistics s = statistics(*tensor, true);
  const std::string_view format = quants::info(tensor->format).name;
  if (options.json) {
    return print_json({{"name", tensor->name},
                       {"type", format},
                       {"dims", std::vector<std::uint64_t>(tensor->dims.begin(), tensor->dims.begin() + tensor->n_dims)},
                       {"bytes", tensor->data.size()},
                       {"file_offset", tensor->file_offset},
                       {"values", s.n},
                       {"nan", s.n_nan},
                       {"inf", s.n_inf},
                       {"zero", s.n_zero},
                       {"min", s.min},
                       {"max", s.max},
                       {"mean", s.mean()},
                       {"deviation", s.deviation()},
                       {"histogram", s.histogram}});
  }
  const std::string range = s.n_finite() > 0 ? fmt::format("{:.6g} to {:.6g}", s.min, s.max) : "no finite value";
  std::string text = fmt::format(
      "{}  {} {}, {} at byte {}\nvalues     {} ({} zero, {} NaN, {} infinite)\nrange      {}\nmean       "
      "{:.6g}\ndeviation  {:.6g}\n",
      shown(tensor->name), format, dims_text(*tensor), format_bytes(tensor->data.size()), tensor->file_offset, s.n,
      s.n_zero, s.n_nan, s.n_inf, range, s.mean(), s.deviation());
  if (s.n_finite() > 0) {
    const std::uint64_t most = std::max<std::uint64_t>(1, *std::max_element(s.histogram.begin(), s.histogram.end()));
    for (std::size_t i = 0; i < n_bins; ++i) {
      const double from = s.min + (s.max - s.min) * static_cast<double>(i) / n_bins;
      const auto length = static_cast<std::size_t>(50.0 * static_cast<double>(s.histogram[i]) / static_cast<double>(most));
      text += fmt::format("{:>12.5g}  {:<50} {}\n", from, std::string(length, '#'), s.histogram[i]);
    }
  }
  return print(text);
}

struct Findings {
  std::vector<std::string> problems;  // what keeps the file from being used
  std::vector<std::string> warnings;  // what is odd besides
};

// Whether a tensor's values can all be numbers; reads the whole file.
void check_values(const gguf::File& file, Findings& found) {
  Progress progress("checking tensors", true);
  std::uint64_t done = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    const Statistics s = statistics(tensor, false);
    if (s.n == 0) {
      found.warnings.push_back(
          fmt::format("{}: tensor '{}' has a dimension of 0: legal, but it holds no values, and no model "
                      "reads it",
                      file.label(), tensor.name));
    } else if (s.n_nan + s.n_inf > 0) {
      found.problems.push_back(
          fmt::format("{}: tensor '{}' at byte {} has {} NaN and {} infinite values of {}; the first at row {}, column {}",
                      file.label(), tensor.name, tensor.file_offset, s.n_nan, s.n_inf, s.n, s.first_odd / tensor.dims[0],
                      s.first_odd % tensor.dims[0]));
    }
    done += tensor.data.size();
    progress.update(done, file.size_bytes());
  }
}

// The errors that using the file would meet: in tokenizer, templates and architecture, and weights that are not finite.
Findings check(const gguf::File& file) {
  Findings found;
  if (const auto is_model = gguf::expect_model(file); !is_model) {
    found.warnings.push_back(is_model.error().message);
  } else {
    if (const auto tokenizer = text::Tokenizer::load(file); !tokenizer) {
      found.problems.push_back(tokenizer.error().message);
    } else {
      found.warnings = tokenizer->warnings();
    }
    for (const auto& [key, value] : file.metadata()) {
      constexpr std::string_view template_key = "tokenizer.chat_template";
      if (key != template_key && !key.starts_with(std::string(template_key) + ".")) continue;
      const auto source = file.get_string(key);
      if (!source) {
        found.problems.push_back(source.error().message);
      } else if (const auto parsed = text::ChatTemplate::parse(*source); !parsed) {
        found.problems.push_back(fmt::format("{}: {}", file.label(), parsed.error().message));
      }
    }
    if (!file.tensors().empty()) std::ranges::move(model::problems(file), std::back_inserter(found.problems));
  }
  if (auto contradiction = model::file_type_contradiction(file)) found.warnings.push_back(std::move(*contradiction));
  if (auto unknown = engine::unknown_sampling(file)) found.warnings.push_back(std::move(*unknown));
  check_values(file, found);
  return found;
}

Result<int> run_check(const gguf::File& file, bool json) {
  const auto& [problems, warnings] = check(file);
  if (json) {
    PLUMB_CHECK(
        print_json({{"file", file.label()}, {"valid", problems.empty()}, {"problems", problems}, {"warnings", warnings}}));
    return problems.empty() ? 0 : 2;
  }
  if (problems.empty()) {
    std::string text = fmt::format("{}: valid; {} metadata entries, {} tensors, every value a number\n",
                                   shown(file.label()), file.metadata().size(), file.tensors().size());
    for (const std::string& warning : warnings) text += fmt::format("warning: {}\n", shown(warning));
    PLUMB_CHECK(print(text));
    return 0;
  }
  for (const std::string& warning : warnings) warn(warning);
  return fail("{}", fmt::join(problems, "\nplumb: "));
}

Json types_json(const gguf::File& file) {
  std::map<std::string_view, std::pair<std::uint64_t, std::uint64_t>> types;
  for (const gguf::Tensor& tensor : file.tensors()) {
    auto& [n, bytes] = types[quants::info(tensor.format).name];
    ++n;
    bytes += tensor.data.size();
  }
  Json json = Json::object();
  for (const auto& [format, amount] : types)
    json[std::string(format)] = {{"tensors", amount.first}, {"bytes", amount.second}};
  return json;
}

// What a person wants to know first. An empty value is left out.
struct Card {
  std::string name;
  std::uint64_t n_parameters = 0;
  double bits_per_weight = 0;
  std::string quantization;
  // Of a file that is a model which Plumb runs; else 0.
  std::uint32_t context = 0;
  std::uint64_t cache_bytes_per_token = 0;          // in f16
  std::optional<std::uint64_t> positions_that_fit;  // engine::positions_that_fit()
};

// Weights by format, in the blocks' matrices if there are any.
std::string_view most_common_format(const gguf::File& file) {
  std::map<std::string_view, std::uint64_t> weights;
  for (const gguf::Tensor& tensor : file.tensors()) weights[quants::info(tensor.format).name] += tensor.n_elements();
  const auto most =
      std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == weights.end() ? std::string_view() : most->first;
}

Card card_of(const gguf::File& file, const Result<model::Model>& model) {
  Card card;
  if (const auto name = file.get_string("general.name")) card.name = *name;
  std::uint64_t bytes = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    card.n_parameters += tensor.n_elements();
    bytes += tensor.data.size();
  }
  if (card.n_parameters > 0)
    card.bits_per_weight = 8.0 * static_cast<double>(bytes) / static_cast<double>(card.n_parameters);
  const auto type = file.get_uint("general.file_type");
  const std::string_view named = type && !model::file_type_contradiction(file) ? model::file_type_name(*type) : "";
  const std::string_view most = most_common_format(file);
  card.quantization = !named.empty() ? std::string(named) : most.empty() ? "" : fmt::format("mostly {}", most);
  if (!model) return card;
  card.context = model->parameters().context;
  card.cache_bytes_per_token = backends::position_bytes(model->plan()->cache, backends::KvType::f16);
  card.positions_that_fit = engine::positions_that_fit(*model, backends::KvType::f16);
  return card;
}

// "1.24 B"
std::string format_count(std::uint64_t n) {
  const auto value = static_cast<double>(n);
  if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
  return fmt::format("{}", n);
}

std::string card_text(const Card& card) {
  std::string text;
  const auto line = [&](std::string_view label, const std::string& value) {
    if (!value.empty()) text += fmt::format("{:<13} {}\n", label, shown(value));
  };
  line("name", card.name);
  if (card.n_parameters > 0) {
    line("parameters", fmt::format("{}, {:.2f} bits each", format_count(card.n_parameters), card.bits_per_weight));
    line("quantization", card.quantization);
  }
  if (card.context == 0) return text;
  line("context", fmt::format("{} positions", card.context));
  line("cache", fmt::format("{} a token in f16, {} for the whole context", format_bytes(card.cache_bytes_per_token),
                            format_bytes(card.cache_bytes_per_token * card.context)));
  if (const auto fit = card.positions_that_fit) {
    line("this machine", *fit == 0             ? "has too little free memory for the weights"
                         : *fit < card.context ? fmt::format("has room for the weights and {} positions", *fit)
                                               : "has room for the weights and the whole context");
  }
  return text;
}

Json card_json(const Card& card) {
  return {{"name", card.name},
          {"parameters", card.n_parameters},
          {"bits_per_weight", card.bits_per_weight},
          {"quantization", card.quantization},
          {"context", card.context},
          {"cache_bytes_per_token", card.cache_bytes_per_token},
          {"positions_that_fit", card.positions_that_fit ? Json(*card.positions_that_fit) : Json()}};
}

// The number of a tensor's block, and the name without it: "blk.3.attn_q.weight" is 3 and "attn_q.weight".
std::pair<std::optional<std::uint64_t>, std::string_view> place_of(std::string_view name) {
  constexpr std::string_view prefix = "blk.";
  if (!name.starts_with(prefix)) return {std::nullopt, name};
  std::uint64_t block = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), block);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return {std::nullopt, name};
  return {block, name.substr(static_cast<std::size_t>(end - name.data()) + 1)};
}

// The tensors as a model computes: what comes before the blocks, the blocks by number, what comes after them; else in the
// order of the file.
std::vector<const gguf::Tensor*> natural_order(const gguf::File& file) {
  std::vector<const gguf::Tensor*> tensors;
  for (const gguf::Tensor& tensor : file.tensors()) tensors.push_back(&tensor);
  const auto rank = [](const gguf::Tensor* tensor) {
    const auto block = place_of(tensor->name).first;
    return std::pair(block ? 1 : tensor->name.starts_with("output") ? 2 : 0, block.value_or(0));
  };
  std::ranges::stable_sort(tensors, {}, rank);
  return tensors;
}

// One line for each role, with the number of tensors of each type.
std::string roles_text(const gguf::File& file) {
  nlohmann::ordered_map<std::string_view, std::map<std::string_view, std::uint64_t>> roles;
  for (const gguf::Tensor* tensor : natural_order(file))
    ++roles[place_of(tensor->name).second][quants::info(tensor->format).name];
  std::string text;
  for (const auto& [role, types] : roles) {
    std::string counts;
    for (const auto& [type, n] : types) counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", n, type);
    text += fmt::format("  {:<36} {}\n", shown(role), counts);
  }
  return text;
}

Json summary_json(const gguf::File& file, bool full) {
  Json document{{"file", file.label()},       {"version", file.version()}, {"alignment", file.alignment()},
                {"bytes", file.size_bytes()}, {"shards", file.n_shards()}, {"metadata", Json::object()},
                {"tensors", Json::array()},   {"types", types_json(file)}};
  for (const auto& [key, value] : file.metadata()) document["metadata"][std::string(key)] = value_json(value, full);
  for (const gguf::Tensor* tensor : natural_order(file)) {
    document["tensors"].push_back(
        {{"name", tensor->name},
         {"type", quants::info(tensor->format).name},
         {"dims", std::vector<std::uint64_t>(tensor->dims.begin(), tensor->dims.begin() + tensor->n_dims)},
         {"bytes", tensor->data.size()},
         {"file_offset", tensor->file_offset},
         {"shard", tensor->shard}});
  }
  return document;
}

std::string lists_text(const gguf::File& file, bool full) {
  std::string text = "\nmetadata\n";
  for (const auto& [key, value] : file.metadata()) text += fmt::format("  {:<44} {}\n", shown(key), one_line(value, full));
  text += "\ntypes by role\n" + roles_text(file) + "\ntypes\n";
  const Json types = types_json(file);
  for (const auto& [format, amount] : types.items()) {
    text += fmt::format("  {:<7} {:>5} tensors {:>10}\n", format, amount["tensors"].get<std::uint64_t>(),
                        format_bytes(amount["bytes"].get<std::uint64_t>()));
  }
  text += "\ntensors\n";
  for (const gguf::Tensor* tensor : natural_order(file)) {
    text += fmt::format("  {:<36} {:<7} {:<20} {:>10}\n", shown(tensor->name), quants::info(tensor->format).name,
                        dims_text(*tensor), format_bytes(tensor->data.size()));
  }
  return text;
}

// Tokenizer, template and model as Plumb reads them from the file.
Json use_json(const gguf::File& file, const Result<model::Model>& model) {
  Json use = Json::object();
  const auto tokenizer = text::Tokenizer::load(file);
  use["tokenizer"] =
      tokenizer ? fmt::format("{}, {} tokens", tokenizer->description(), tokenizer->size()) : tokenizer.error().message;
  const auto source = file.get_string("tokenizer.chat_template");
  use["template"] =
      source ? fmt::format("{} bytes", source->size()) : "none: 'plumb run' gives the model the text as it is";
  const auto sampling = recommended_text(file);
  use["sampling"] = !sampling ? sampling.error().message : sampling->empty() ? "the file recommends nothing" : *sampling;
  if (!model) {
    use["runs"] = "no: " + model.error().message;
  } else {
    const auto backend = backends::make("auto");
    use["runs"] = fmt::format("{}, {} layers, on {} ({})", model->parameters().architecture, model->parameters().n_layers,
                              backend ? (*backend)->name() : "nothing",
                              backend ? (*backend)->description(0) : backend.error().message);
    use["parts"] = fmt::format("{}", fmt::join(plan::parts(*model->plan()), "; "));
  }
  return use;
}

Result<int> run_inspect(const InspectOptions& options) {
  PLUMB_TRY(const gguf::File file, open_model(options.model, options.yes));
  if (!options.tensor.empty()) return show_tensor(options, file);
  if (options.check) return run_check(file, options.json);
  const auto model = model::Model::load(file);
  const Card card = card_of(file, model);
  const Json use = use_json(file, model);
  if (options.json) {
    Json document = summary_json(file, options.full);
    document["card"] = card_json(card);
    document.update(use);
    return print_json(document);
  }
  std::string text = fmt::format("{}: GGUF version {}, {}, {} tensors{}\n\n", shown(file.label()), file.version(),
                                 format_bytes(file.size_bytes()), file.tensors().size(),
                                 file.n_shards() > 1 ? fmt::format(", {} files", file.n_shards()) : "");
  text += card_text(card);
  for (const auto& [key, value] : use.items()) text += fmt::format("{:<13} {}\n", key, shown(value.get<std::string>()));
  return print(text + lists_text(file, options.full));
}

}  // namespace

Action setup_inspect(CLI::App& app) {
  app.alias("show");
  auto options = std::make_shared<InspectOptions>();
  add_model(app, options->model, options->yes);
  auto* tensor = app.add_option("--tensor", options->tensor, "Statistics and a histogram of one tensor");
  app.add_flag("--check", options->check, "Validate everything: structure, tokenizer, template, model, every value")
      ->excludes(tensor);
  app.add_flag("--full", options->full, "Show long texts and arrays whole");
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_inspect(*options); };
}

}  // namespace plumb::cli
