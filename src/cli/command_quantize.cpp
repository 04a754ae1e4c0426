#include <fmt/format.h>

#include <filesystem>

#include "base/printable.h"
#include "base/progress.h"
#include "cli/command.h"
#include "model/quantize.h"

namespace plumb::cli {

namespace {

struct QuantizeOptions {
  std::string in, out, type;
  bool yes = false;
  std::uint32_t threads = 0;
  bool json = false;
};

Result<int> run_quantize(const QuantizeOptions& options) {
  PLUMB_TRY(const model::FileType type, model::parse_file_type(options.type));
  PLUMB_TRY(const gguf::File in, open_model(options.in, options.yes));
  std::error_code no_such_file;
  if (std::filesystem::equivalent(in.label(), options.out, no_such_file)) {
    return fail("{}: is the file to read, too, which would be lost; write to another", options.out);
  }
  std::vector<model::TensorReport> report;
  PLUMB_TRY(const gguf::Writer writer, model::quantize(in, type, {.n_threads = options.threads}, &report));
  {
    Progress progress("quantizing", true);
    PLUMB_CHECK(writer.write(options.out, [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); }));
  }
  PLUMB_TRY(const gguf::File out, gguf::File::open(options.out));
  if (options.json) {
    Json document{{"in", in.label()},
                  {"out", options.out},
                  {"type", model::name(type)},
                  {"bytes_in", in.size_bytes()},
                  {"bytes_out", out.size_bytes()},
                  {"tensors", Json::array()}};
    for (const auto& tensor : report) {
      document["tensors"].push_back({{"name", tensor.name},
                                     {"from", quants::info(tensor.from).name},
                                     {"to", quants::info(tensor.to).name},
                                     {"requantized", tensor.requantized},
                                     {"weights", tensor.n_weights},
                                     {"rmse", tensor.rmse},
                                     {"max_error", tensor.max_error}});
    }
    return print_json(document);
  }
  std::string lines;
  std::size_t n_requantized = 0;
  for (const auto& tensor : report) {
    if (tensor.requantized) ++n_requantized;
    lines += fmt::format("{:<36} {:>6} -> {:<6} rmse {:.3g}, at most {:.3g}\n", printable(tensor.name, Lines::escape),
                         quants::info(tensor.from).name, quants::info(tensor.to).name, tensor.rmse, tensor.max_error);
  }
  PLUMB_CHECK(print(lines + fmt::format("{} -> {}: {} -> {}\n", printable(in.label()), printable(options.out),
                                        format_bytes(in.size_bytes()), format_bytes(out.size_bytes()))));
  if (n_requantized > 0) {
    fmt::print(stderr,
               "plumb: {} tensors were quantized already; their errors stay and the new ones come on top. Start from F16 "
               "or F32 if you can.\n",
               n_requantized);
  }
  return 0;
}

}  // namespace

Action setup_quantize(CLI::App& app) {
  auto options = std::make_shared<QuantizeOptions>();
  add_model(app, options->in, options->yes, "IN", "A model, best in F16 or F32");
  app.add_option("OUT", options->out, "The file to write")->required();
  std::string types = "One of";
  for (const model::FileTypeInfo& info : model::file_types()) types += fmt::format(" {}", info.name);
  app.add_option("TYPE", options->type, types)->required();
  app.add_option("-t,--threads", options->threads, "CPU threads (0: all cores)")->check(CLI::Range(0u, 1024u));
  app.add_flag("--json", options->json, "One JSON document with the error of each tensor");
  return [options] { return run_quantize(*options); };
}

}  // namespace plumb::cli
