#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>

#include "base/progress.h"
#include "cli/command.h"

namespace plumb::cli {

namespace {

constexpr std::size_t shown_array_items = 4;
constexpr std::size_t shown_text_bytes = 100;
constexpr std::size_t n_bins = 24;

struct InspectOptions {
  std::string model;
  std::string tensor;
  bool check = false;
  bool json = false;
};

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

Json value_json(const gguf::Value& value) {
  return std::visit(
      [](const auto& v) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, gguf::Array>) {
          const std::size_t n = std::min<std::size_t>(v.count, shown_array_items);
          return {{"type", gguf::name(v.element)}, {"count", v.count}, {"first", items_json(v, n)}};
        } else {
          return v;
        }
      },
      value);
}

std::string one_line(const gguf::Value& value) {
  if (const auto* array = std::get_if<gguf::Array>(&value)) {
    const std::size_t n = std::min<std::size_t>(array->count, shown_array_items);
    std::string items = items_json(*array, n).dump(-1, ' ', false, Json::error_handler_t::replace);
    if (array->count > n) items.insert(items.size() - 1, ",…");
    return fmt::format("{} {} {}", array->count, gguf::name(array->element), items);
  }
  std::string text = value_json(value).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > shown_text_bytes) {
    std::size_t end = shown_text_bytes;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
    text = text.substr(0, end) + fmt::format("… ({} bytes)", text.size());
  }
  return text;
}

std::string dims_text(const gguf::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.dims.begin(), tensor.dims.begin() + tensor.n_dims, ", "));
}

struct Statistics {
  std::uint64_t n = 0, n_nan = 0, n_inf = 0, n_zero = 0;
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
  std::string text = fmt::format(
      "{}  {} {}, {} at byte {}\nvalues     {} ({} zero, {} NaN, {} infinite)\nrange      {:.6g} to {:.6g}\nmean       "
      "{:.6g}\ndeviation  {:.6g}\n",
      tensor->name, format, dims_text(*tensor), format_bytes(tensor->data.size()), tensor->file_offset, s.n, s.n_zero,
      s.n_nan, s.n_inf, s.min, s.max, s.mean(), s.deviation());
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

// The errors that using the file would meet: in tokenizer, template and architecture, and weights that are not finite.
std::vector<std::string> problems(const gguf::File& file) {
  std::vector<std::string> found;
  if (const auto tokenizer = text::Tokenizer::load(file); !tokenizer) found.push_back(tokenizer.error().message);
  if (file.find("tokenizer.chat_template") != nullptr) {
    const auto source = file.get_string("tokenizer.chat_template");
    if (!source) {
      found.push_back(source.error().message);
    } else if (const auto parsed = text::ChatTemplate::parse(*source); !parsed) {
      found.push_back(fmt::format("{}: {}", file.label(), parsed.error().message));
    }
  }
  if (!file.tensors().empty()) {
    if (const auto model = model::Model::load(file); !model) found.push_back(model.error().message);
  }
  Progress progress("checking tensors", true);
  std::uint64_t done = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    const Statistics s = statistics(tensor, false);
    if (s.n_nan + s.n_inf > 0) {
      found.push_back(fmt::format("{}: tensor '{}' at byte {} has {} NaN and {} infinite values of {}", file.label(),
                                  tensor.name, tensor.file_offset, s.n_nan, s.n_inf, s.n));
    }
    done += tensor.data.size();
    progress.update(done, file.size_bytes());
  }
  return found;
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

Json summary_json(const gguf::File& file) {
  Json document{{"file", file.label()},       {"version", file.version()}, {"alignment", file.alignment()},
                {"bytes", file.size_bytes()}, {"shards", file.n_shards()}, {"metadata", Json::object()},
                {"tensors", Json::array()},   {"types", types_json(file)}};
  for (const auto& [key, value] : file.metadata()) document["metadata"][std::string(key)] = value_json(value);
  for (const gguf::Tensor& tensor : file.tensors()) {
    document["tensors"].push_back(
        {{"name", tensor.name},
         {"type", quants::info(tensor.format).name},
         {"dims", std::vector<std::uint64_t>(tensor.dims.begin(), tensor.dims.begin() + tensor.n_dims)},
         {"bytes", tensor.data.size()},
         {"file_offset", tensor.file_offset},
         {"shard", tensor.shard}});
  }
  return document;
}

std::string summary_text(const gguf::File& file) {
  std::string text = fmt::format("{}: GGUF version {}, {}, {} tensors", file.label(), file.version(),
                                 format_bytes(file.size_bytes()), file.tensors().size());
  text += file.n_shards() > 1 ? fmt::format(", {} files\n\nmetadata\n", file.n_shards()) : "\n\nmetadata\n";
  for (const auto& [key, value] : file.metadata()) text += fmt::format("  {:<44} {}\n", key, one_line(value));
  text += "\ntensors\n";
  for (const gguf::Tensor& tensor : file.tensors()) {
    text += fmt::format("  {:<36} {:<7} {:<20} {:>10}\n", tensor.name, quants::info(tensor.format).name, dims_text(tensor),
                        format_bytes(tensor.data.size()));
  }
  text += "\nby type\n";
  const Json types = types_json(file);
  for (const auto& [format, amount] : types.items()) {
    text += fmt::format("  {:<7} {:>5} tensors {:>10}\n", format, amount["tensors"].get<std::uint64_t>(),
                        format_bytes(amount["bytes"].get<std::uint64_t>()));
  }
  return text;
}

// Tokenizer, template and model as Plumb reads them from the file.
Json use_json(const gguf::File& file) {
  Json use = Json::object();
  const auto tokenizer = text::Tokenizer::load(file);
  use["tokenizer"] =
      tokenizer ? fmt::format("{}, {} tokens", tokenizer->description(), tokenizer->size()) : tokenizer.error().message;
  const auto source = file.get_string("tokenizer.chat_template");
  use["template"] =
      source ? fmt::format("{} bytes", source->size()) : "none: 'plumb run' gives the model the text as it is";
  if (file.tensors().empty()) {
    use["runs"] = "no: the file is a vocabulary without a model";
  } else if (const auto model = model::Model::load(file); !model) {
    use["runs"] = "no: " + model.error().message;
  } else {
    const auto backend = backends::make("auto");
    use["runs"] = fmt::format("{}, {} layers, on {} ({})", model->parameters().architecture, model->parameters().n_layers,
                              backend ? (*backend)->name() : "nothing",
                              backend ? (*backend)->description() : backend.error().message);
  }
  return use;
}

Result<int> run_inspect(const InspectOptions& options) {
  PLUMB_TRY(const gguf::File file, open_model(options.model));
  if (!options.tensor.empty()) return show_tensor(options, file);
  if (options.check) {
    const auto found = problems(file);
    if (options.json) {
      PLUMB_CHECK(print_json({{"file", file.label()}, {"valid", found.empty()}, {"problems", found}}));
    } else if (found.empty()) {
      PLUMB_CHECK(print(fmt::format("{}: valid; {} metadata entries, {} tensors, every value a number\n", file.label(),
                                    file.metadata().size(), file.tensors().size())));
    }
    if (found.empty()) return 0;
    if (options.json) return 2;
    return fail("{}", fmt::join(found, "\nplumb: "));
  }
  const Json use = use_json(file);
  if (options.json) {
    Json document = summary_json(file);
    document.update(use);
    return print_json(document);
  }
  std::string text = summary_text(file) + "\n";
  for (const auto& [key, value] : use.items()) text += fmt::format("{:<10} {}\n", key, value.get<std::string>());
  return print(text);
}

}  // namespace

Action setup_inspect(CLI::App& app) {
  app.alias("show");
  auto options = std::make_shared<InspectOptions>();
  app.add_option("MODEL", options->model, "A .gguf file, 'canary', or the name of a fetched model")->required();
  auto* tensor = app.add_option("--tensor", options->tensor, "Statistics and a histogram of one tensor");
  app.add_flag("--check", options->check, "Validate everything: structure, tokenizer, template, model, every value")
      ->excludes(tensor);
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_inspect(*options); };
}

}  // namespace plumb::cli
