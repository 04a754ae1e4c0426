#include "gguf/kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstring>

namespace plumb::gguf {
namespace {

struct Start {
  std::string_view bytes;
  std::string_view what;
};

// The older formats' magics are numbers, so that their letters stand in the file in reverse order; some tools wrote them in
// order.
constexpr std::array older_formats{Start{"lmgg", "ggml"}, Start{"fmgg", "ggmf"}, Start{"tjgg", "ggjt"},
                                   Start{"ggml", "ggml"}, Start{"ggmf", "ggmf"}, Start{"ggjt", "ggjt"}};

using namespace std::string_view_literals;
constexpr std::array starts{
    Start{"FUGG"sv, "a big-endian GGUF file; convert it to little-endian first"},
    Start{"algg"sv, "a LoRA adapter of GGML's older format (ggla), not a model; convert the original adapter to GGUF"},
    Start{"ggla"sv, "a LoRA adapter of GGML's older format (ggla), not a model; convert the original adapter to GGUF"},
    Start{"PK\x03\x04"sv, "a zip archive (perhaps a PyTorch checkpoint); convert the model to GGUF first"},
    Start{"\x80\x02"sv, "a Python pickle (perhaps a PyTorch checkpoint); convert the model to GGUF first"},
    Start{"\x89HDF"sv, "an HDF5 file (perhaps a Keras checkpoint); convert the model to GGUF first"},
    Start{"\x1f\x8b"sv, "a gzip archive; unpack it first"},
    Start{"\x28\xb5\x2f\xfd"sv, "a zstd archive; unpack it first"},
    Start{"\xfd"
          "7zXZ"sv,
          "an xz archive; unpack it first"},
    Start{"7z\xbc\xaf"sv, "a 7-Zip archive; unpack it first"},
    Start{"BZh"sv, "a bzip2 archive; unpack it first"},
    Start{"%PDF"sv, "a PDF document; name a model"},
};

// The size that a Git LFS pointer states, in digits; empty if it states none.
std::string_view pointer_size(std::string_view text) {
  constexpr std::string_view key = "\nsize ";
  const std::size_t at = text.find(key);
  if (at == std::string_view::npos) return {};
  const std::string_view digits = text.substr(at + key.size());
  return digits.substr(0, std::min(digits.find_first_not_of("0123456789"), std::size_t{20}));
}

// Whether a name says that the file was cut by hand: "model.gguf.part2of3", "model.gguf-split-b".
bool is_named_as_part(std::string_view label) {
  const std::string_view name = label.substr(label.rfind('/') + 1);
  const std::size_t part = name.rfind("part");
  const bool numbered = part != std::string_view::npos && part + 4 < name.size() &&
                        std::isdigit(static_cast<unsigned char>(name[part + 4])) != 0;
  return numbered || name.find("-split-") != std::string_view::npos;
}

// llama.cpp's older format of importance matrices: a count, then for each tensor the length of its name and the name.
bool is_old_imatrix(std::string_view start) {
  const std::string_view name = start.substr(std::min<std::size_t>(start.size(), 8));
  return name.starts_with("blk.") || name.starts_with("token_embd.") || name.starts_with("output.");
}

}  // namespace

std::string describe_foreign(std::span<const std::byte> bytes, std::string_view label) {
  constexpr std::size_t looked_at = 4096;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), looked_at));
  if (std::string_view("GGUF").starts_with(text))
    return "the beginning of a GGUF file that is cut short; download it again";
  for (const Start& format : older_formats) {
    if (!text.starts_with(format.bytes)) continue;
    return fmt::format(
        "a file of GGML's older formats ({}), which GGUF replaced in 2023; download the model as GGUF, or convert the "
        "original model again",
        format.what);
  }
  for (const Start& start : starts) {
    if (text.starts_with(start.bytes)) return std::string(start.what);
  }
  if (text.starts_with("version http")) {
    const std::string_view size = pointer_size(text);
    return fmt::format("a Git LFS pointer, which stands for a file{}; 'git lfs pull' fetches it",
                       size.empty() ? "" : fmt::format(" of {} bytes", size));
  }
  if (text.size() > 8 && text[8] == '{') {
    std::uint64_t length = 0;  // of the header in JSON
    std::memcpy(&length, text.data(), sizeof(length));
    const std::string_view header(text.data(), std::min<std::uint64_t>(length, bytes.size() - 8) + 8);
    if (header.find("plumb-trace") != std::string_view::npos)
      return "a trace of a run; 'plumb diagnose MODEL --trace' takes it";
    return "a safetensors file: weights without what GGUF says about them; convert the model's folder to GGUF first";
  }
  if (is_old_imatrix(text)) return "an importance matrix of llama.cpp's older format, not a model; it helps quantizers";
  std::string_view words = text.substr(text.starts_with("\xef\xbb\xbf") ? 3 : 0);
  words.remove_prefix(std::min(words.find_first_not_of(" \t\r\n"), words.size()));
  if (words.starts_with('<')) {
    return "a web page, saved in place of the model; download the file itself (at Hugging Face the address has /resolve/ "
           "instead of /blob/)";
  }
  if (words.starts_with('{') || words.starts_with('['))
    return "a text in JSON, perhaps a server's answer in place of the model; download the model again";
  if (is_named_as_part(label))
    return "a later part of a file that was cut; join all parts first: cat PART1 PART2 … > MODEL.gguf";
  return "no GGUF file";
}

Result<void> expect_model(const File& file) {
  const auto text = [&](std::string_view key) {
    const auto value = file.get_string(key);
    return value ? *value : std::string_view();
  };
  const std::string_view type = text("general.type"), architecture = text("general.architecture");
  std::string_view what;
  if (type == "adapter" || file.find("adapter.type") != nullptr) {
    what =
        "a LoRA adapter, not a model: it changes the weights of the model that it was made for. Plumb does not apply "
        "adapters yet";
  } else if (type == "imatrix" || file.find("imatrix.chunk_count") != nullptr) {
    what = "an importance matrix, not a model: a quantizer weighs errors with it. 'plumb quantize' does not use one yet";
  } else if (type == "mmproj" || architecture == "clip") {
    what =
        "the projector of a multimodal model (mmproj), not a model: it turns images or sound into inputs. 'plumb run' "
        "takes the language model that lies beside it";
  } else if (architecture == "controlvector") {
    what = "a control vector, not a model: it steers the model that it was made for. Plumb does not apply one yet";
  } else {
    return {};
  }
  return fail("{}: is {}; 'plumb inspect' shows what is in it", file.label(), what);
}

}  // namespace plumb::gguf
