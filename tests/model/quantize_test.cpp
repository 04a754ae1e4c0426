// File types: the chosen formats are llama.cpp's, and the written files have the right content.
#include "model/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "gguf/writer.h"

namespace plumb::model {
namespace {

using quants::Format;

// A GGUF file in memory, with its bytes.
struct Built {
  std::shared_ptr<const std::vector<std::byte>> bytes;
  gguf::File file;
};

Result<Built> build(const gguf::Writer& writer) {
  PLUMB_TRY(std::vector<std::byte> bytes, writer.to_memory());
  auto kept = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  PLUMB_TRY(gguf::File file, gguf::File::from_memory(*kept, "test"));
  return Built{std::move(kept), std::move(file)};
}

// Weights that a tensor's format is given: a wave, so that no two rows are the same.
gguf::Writer::Produce wave(Format format) {
  return [&format = quants::info(format)](std::span<std::byte> out) -> Result<void> {
    const std::size_t n = out.size() / format.block_bytes;
    std::vector<float> values(n * format.block_size);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.37f * static_cast<float>(i));
    format.encode(values.data(), out.data(), n);
    return {};
  };
}

void add(gguf::Writer& writer, const std::string& name, Format format, std::vector<std::uint64_t> dims) {
  writer.add_tensor(name, format, dims, wave(format));
}

// A case of tools/make_quantize_goldens.py.
struct Case {
  std::string arch;
  std::map<std::string, std::uint32_t> number;

  [[nodiscard]] std::uint32_t at(const std::string& key) const { return number.at(key); }
};

Case parse_case(const std::string& line) {
  Case result;
  std::istringstream words(line.substr(line.find(' ')));
  for (std::string word; words >> word;) {
    const auto equals = word.find('=');
    const std::string key = word.substr(0, equals);
    if (key == "arch") {
      result.arch = word.substr(equals + 1);
    } else {
      result.number[key] = static_cast<std::uint32_t>(std::stoul(word.substr(equals + 1)));
    }
  }
  return result;
}

gguf::Writer model_of(const Case& c) {
  gguf::Writer writer;
  writer.set("general.architecture", std::string_view(c.arch));
  writer.set(c.arch + ".block_count", c.at("layers"));
  writer.set(c.arch + ".attention.head_count", c.at("heads"));
  writer.set(c.arch + ".attention.head_count_kv", c.at("kv_heads"));
  if (c.at("experts") != 0) writer.set(c.arch + ".expert_count", c.at("experts"));
  const std::uint64_t width = c.at("width");
  const std::uint64_t ff = c.at("ff");
  add(writer, "token_embd.weight", Format::f16, {width, 2});
  add(writer, "output_norm.weight", Format::f32, {width});
  if (c.at("tied") == 0) add(writer, "output.weight", Format::f16, {width, 2});
  // Blocks from the last to the first: the choice must not depend on the order in the file.
  for (std::uint32_t layer = c.at("layers"); layer-- > 0;) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    add(writer, block + "attn_norm.weight", Format::f32, {width});
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      add(writer, block + part + ".weight", Format::f16, {width, 2});
    }
    add(writer, block + "ffn_norm.weight", Format::f32, {width});
    if (const std::uint64_t experts = c.at("experts"); experts != 0) {
      add(writer, block + "ffn_gate_inp.weight", Format::f32, {width, experts});
      add(writer, block + "ffn_gate_exps.weight", Format::f16, {width, 2, experts});
      add(writer, block + "ffn_up_exps.weight", Format::f16, {width, 2, experts});
      add(writer, block + "ffn_down_exps.weight", Format::f16, {ff, 2, experts});
    } else {
      add(writer, block + "ffn_gate.weight", Format::f16, {width, 2});
      add(writer, block + "ffn_up.weight", Format::f16, {width, 2});
      add(writer, block + "ffn_down.weight", Format::f16, {ff, 2});
    }
  }
  return writer;
}

// The table of make_quantize_goldens.py: `role=FORMAT*COUNT,...`, roles sorted, layers in order.
std::string table_of(const gguf::File& file, const std::vector<Format>& formats) {
  std::map<std::string, std::map<unsigned long, Format>> roles;
  for (std::size_t i = 0; i < formats.size(); ++i) {
    std::string role(file.tensors()[i].name);
    unsigned long layer = 0;
    if (role.starts_with("blk.")) {
      layer = std::stoul(role.substr(4));
      role = role.substr(role.find('.', 4) + 1);
    }
    roles[role.substr(0, role.find('.'))][layer] = formats[i];
  }
  std::string table;
  for (const auto& [role, by_layer] : roles) {
    table += (table.empty() ? "" : " ") + role + "=";
    for (auto run = by_layer.begin(); run != by_layer.end();) {
      auto end = run;
      while (end != by_layer.end() && end->second == run->second) ++end;
      table += (run == by_layer.begin() ? "" : ",") + std::string(quants::info(run->second).name) + "*" +
               std::to_string(std::distance(run, end));
      run = end;
    }
  }
  return table;
}

TEST(ChooseFormats, AsLlamaCppDoes) {
  std::ifstream in(std::string(PLUMB_TEST_DATA) + "/model/file_types.txt");
  ASSERT_TRUE(in.is_open());
  std::optional<Built> model;
  std::string shape;
  std::size_t n_compared = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#")) continue;
    if (line.starts_with("case ")) {
      auto built = build(model_of(parse_case(line)));
      ASSERT_TRUE(built) << built.error().message;
      model = std::move(*built);
      shape = line;
      continue;
    }
    const auto space = line.find(' ');
    const auto type = parse_file_type(line.substr(0, space));
    ASSERT_TRUE(type) << type.error().message;
    const auto formats = choose_formats(model->file, *type);
    ASSERT_TRUE(formats) << formats.error().message;
    EXPECT_EQ(table_of(model->file, *formats), line.substr(space + 1)) << name(*type) << " of " << shape;
    ++n_compared;
  }
  EXPECT_EQ(n_compared % file_types().size(), 0u);
  EXPECT_GE(n_compared, 16 * file_types().size());
}

TEST(ChooseFormats, RowsThatNoBlockFitsStayF16) {
  gguf::Writer writer;
  writer.set("general.architecture", std::string_view("llama"));
  writer.set("llama.block_count", std::uint32_t{1});
  add(writer, "blk.0.attn_q.weight", Format::f32, {40, 4});
  const auto built = build(writer);
  ASSERT_TRUE(built) << built.error().message;
  for (const FileType type : {FileType::q8_0, FileType::q4_0, FileType::q4_k_m, FileType::q6_k}) {
    const auto formats = choose_formats(built->file, type);
    ASSERT_TRUE(formats) << formats.error().message;
    EXPECT_EQ(formats->front(), Format::f16) << name(type);
  }
}

// The format of one tensor of a model with one block.
Format chosen(FileType type, const char* name, std::initializer_list<std::uint64_t> dims, std::uint64_t n_experts = 0) {
  gguf::Tensor tensor{.name = name, .format = Format::f32};
  tensor.dims.fill(1);
  for (const std::uint64_t dim : dims) tensor.dims[tensor.n_dims++] = dim;
  gguf::Tensor untied{.name = "output.weight", .format = Format::f32, .n_dims = 2};
  untied.dims = {256, 2, 1, 1};
  const std::vector<gguf::Tensor> tensors{tensor, untied};
  MixtureShape shape;
  shape.n_layers = 1;
  shape.n_experts = n_experts;
  const auto formats = choose_formats(tensors, shape, type, "test");
  EXPECT_TRUE(formats) << formats.error().message;
  return formats ? formats->front() : Format::f32;
}

TEST(ChooseFormats, MatricesOfWeightsAreQuantized) {
  for (const char* kept : {"position_embd.weight", "token_types.weight", "blk.0.attn_norm.weight",
                           "blk.0.ffn_gate_inp.weight", "blk.0.attn_rel_b.weight", "blk.0.ssm_conv1d.weight",
                           "blk.0.shortconv.conv.weight", "blk.0.attn_q.bias", "weight.x"})
    EXPECT_EQ(chosen(FileType::q4_k_m, kept, {256, 4}), Format::f32) << kept;
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_q.weight", {256}), Format::f32);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_q.weight", {256, 1}), Format::f32);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_q.weight", {256, 2}), Format::q4_k);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_q.weight", {256, 1, 2}), Format::q4_k);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_q.weight", {256, 1, 1, 2}), Format::q4_k);
  EXPECT_EQ(chosen(FileType::f16, "blk.0.attn_q.weight", {40, 2}), Format::f16);
  EXPECT_EQ(chosen(FileType::f16, "blk.0.attn_norm.weight", {40, 2}), Format::f32);
}

TEST(ChooseFormats, RolesFollowFromNames) {
  for (const char* like_v : {"blk.0.attn_v.weight", "blk.0.attn_qkv.weight", "blk.0.attn_kv_b.weight"}) {
    EXPECT_EQ(chosen(FileType::q4_k_m, like_v, {256, 2}), Format::q6_k) << like_v;
    EXPECT_EQ(chosen(FileType::q4_k_s, like_v, {256, 2}), Format::q5_k) << like_v;
    EXPECT_EQ(chosen(FileType::q4_k_m, like_v, {256, 2}, 8), Format::q8_0) << like_v;
    EXPECT_EQ(chosen(FileType::q4_k_m, like_v, {256, 2}, 7), Format::q6_k) << like_v;
  }
  for (const char* name : {"blk.0.attn_k.weight", "blk.0.attn_output.weight", "blk.0.ffn_up.weight"})
    EXPECT_EQ(chosen(FileType::q4_k_m, name, {256, 2}), Format::q4_k) << name;
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_k.weight", {256, 2}, 8), Format::q8_0);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_k.weight", {256, 2}, 7), Format::q4_k);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.attn_output.weight", {256, 2}, 8), Format::q5_k);
  EXPECT_EQ(chosen(FileType::q4_k_s, "blk.0.attn_output.weight", {256, 2}, 8), Format::q5_k);
  EXPECT_EQ(chosen(FileType::q5_k_m, "blk.0.attn_output.weight", {256, 2}, 8), Format::q5_k);
  EXPECT_EQ(chosen(FileType::q6_k, "blk.0.attn_output.weight", {256, 2}, 8), Format::q6_k);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.ffn_down.weight", {256, 2}), Format::q6_k);
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.ffn_down_exps.weight", {256, 2, 8}, 8), Format::q6_k);
  EXPECT_EQ(chosen(FileType::q4_k_s, "blk.0.ffn_down.weight", {256, 2}), Format::q4_k);
}

// Rows that are no multiple of 256 have blocks of 32, and other rows none.
TEST(ChooseFormats, SmallerBlocksStandIn) {
  struct StandIn {
    FileType type;
    Format instead;
  };
  for (const auto& [type, instead] : {StandIn{FileType::q4_k_m, Format::q5_0}, StandIn{FileType::q4_k_s, Format::q5_0},
                                      StandIn{FileType::q5_k_m, Format::q5_1}, StandIn{FileType::q5_k_s, Format::q5_1},
                                      StandIn{FileType::q6_k, Format::q8_0}, StandIn{FileType::q8_0, Format::q8_0},
                                      StandIn{FileType::q5_0, Format::q5_0}, StandIn{FileType::q4_0, Format::q4_0},
                                      StandIn{FileType::q4_1, Format::q4_1}, StandIn{FileType::q5_1, Format::q5_1}}) {
    EXPECT_EQ(chosen(type, "blk.0.attn_q.weight", {288, 2}), instead) << name(type);
    EXPECT_EQ(chosen(type, "blk.0.attn_q.weight", {264, 2}), Format::f16) << name(type);
    EXPECT_EQ(chosen(type, "blk.0.attn_q.weight", {256, 2}), info(type).format) << name(type);
  }
  EXPECT_EQ(chosen(FileType::q4_k_m, "blk.0.ffn_down.weight", {288, 2}), Format::q8_0) << "in place of Q6_K";
}

// GGUF's numbers, which stand in files.
TEST(FileTypes, HaveTheNumbersOfGguf) {
  const std::map<std::string, unsigned> numbers{
      {"F32", 0},     {"F16", 1},     {"Q4_0", 2},    {"Q4_1", 3},    {"Q8_0", 7},  {"Q5_0", 8}, {"Q5_1", 9},
      {"Q4_K_S", 14}, {"Q4_K_M", 15}, {"Q5_K_S", 16}, {"Q5_K_M", 17}, {"Q6_K", 18}, {"BF16", 32}};
  EXPECT_EQ(file_types().size(), numbers.size());
  for (const FileTypeInfo& listed : file_types()) {
    EXPECT_EQ(static_cast<unsigned>(listed.type), numbers.at(std::string(listed.name)));
  }
}

TEST(FileTypes, NamesAreFoundInAnyCase) {
  for (const FileTypeInfo& listed : file_types()) {
    const FileType type = listed.type;
    EXPECT_EQ(info(type).type, type);
    EXPECT_EQ(*parse_file_type(name(type)), type);
  }
  EXPECT_EQ(*parse_file_type("q4_k_m"), FileType::q4_k_m);
  EXPECT_EQ(*parse_file_type("Q5_k"), FileType::q5_k_m);
  for (const char* unknown : {"", "Q4", "Q4_K_L", "IQ4_XS"}) {
    const auto type = parse_file_type(unknown);
    ASSERT_FALSE(type) << unknown;
    EXPECT_NE(type.error().message.find("Q4_K_M"), std::string::npos) << type.error().message;
  }
}

// A case that outlives every Writer, since a Writer only views its input.
const Case& small_case() {
  static const Case small = parse_case("case arch=llama layers=3 width=512 ff=768 heads=4 kv_heads=2 experts=0 tied=0");
  return small;
}

std::vector<float> decoded(const gguf::Tensor& tensor) {
  std::vector<float> values(tensor.n_elements());
  const auto& format = quants::info(tensor.format);
  format.decode(tensor.data.data(), values.data(), values.size() / format.block_size);
  return values;
}

TEST(Quantize, EveryFileTypeHoldsTheWeightsAndSaysWhatItIs) {
  gguf::Writer source = model_of(small_case());
  source.set("general.name", std::string_view("three layers"));
  source.set("split.count", std::uint16_t{1});
  const auto in = build(source);
  ASSERT_TRUE(in) << in.error().message;
  for (const FileTypeInfo& listed : file_types()) {
    const FileType type = listed.type;
    SCOPED_TRACE(name(type));
    std::vector<TensorReport> report;
    const auto writer = quantize(in->file, type, {}, &report);
    ASSERT_TRUE(writer) << writer.error().message;
    const auto out = build(*writer);
    ASSERT_TRUE(out) << out.error().message;

    EXPECT_EQ(*out->file.get_uint("general.file_type"), static_cast<std::uint64_t>(type));
    EXPECT_EQ(*out->file.get_uint("general.quantization_version"), 2u);
    EXPECT_EQ(*out->file.get_string("general.name"), "three layers");
    EXPECT_EQ(out->file.find("split.count"), nullptr);
    ASSERT_EQ(out->file.tensors().size(), in->file.tensors().size());
    ASSERT_EQ(report.size(), in->file.tensors().size());
    for (std::size_t i = 0; i < report.size(); ++i) {
      const gguf::Tensor& from = in->file.tensors()[i];
      const gguf::Tensor& to = out->file.tensors()[i];
      SCOPED_TRACE(from.name);
      EXPECT_EQ(to.name, from.name);
      EXPECT_EQ(to.dims, from.dims);
      EXPECT_EQ(report[i].name, from.name);
      EXPECT_EQ(report[i].from, from.format);
      EXPECT_EQ(report[i].to, to.format);
      EXPECT_FALSE(report[i].requantized);
      const std::vector<float> a = decoded(from);
      const std::vector<float> b = decoded(to);
      double squares = 0;
      double max_error = 0;
      for (std::size_t k = 0; k < a.size(); ++k) {
        const double error = std::fabs(double{a[k]} - b[k]);
        squares += error * error;
        max_error = std::max(max_error, error);
      }
      EXPECT_EQ(report[i].n_weights, a.size());
      EXPECT_NEAR(report[i].rmse, std::sqrt(squares / static_cast<double>(a.size())), 1e-12);
      EXPECT_EQ(report[i].max_error, max_error);
      EXPECT_LT(report[i].rmse, 0.08);  // of weights whose RMS is 0.7, in four bits
    }
  }
}

TEST(Quantize, TheNumberOfThreadsChangesNoBit) {
  gguf::Writer source;
  source.set("general.architecture", std::string_view("llama"));
  source.set("llama.block_count", std::uint32_t{1});
  add(source, "blk.0.attn_q.weight", Format::f32, {768, 300});  // chunks that end within a row
  const auto in = build(source);
  ASSERT_TRUE(in) << in.error().message;
  std::vector<TensorReport> report_of_one;
  std::vector<TensorReport> report_of_five;
  const auto one = quantize(in->file, FileType::q4_k_m, {.n_threads = 1}, &report_of_one)->to_memory();
  const auto five = quantize(in->file, FileType::q4_k_m, {.n_threads = 5}, &report_of_five)->to_memory();
  ASSERT_TRUE(one && five);
  EXPECT_EQ(*one, *five);
  EXPECT_EQ(report_of_one[0].rmse, report_of_five[0].rmse);
}

TEST(Quantize, QuantizedInputIsEncodedAgainAndSaidToBe) {
  const auto in = build(model_of(small_case()));
  ASSERT_TRUE(in) << in.error().message;
  const auto first = build(*quantize(in->file, FileType::q8_0));
  ASSERT_TRUE(first) << first.error().message;
  std::vector<TensorReport> report;
  const auto writer = quantize(first->file, FileType::q6_k, {}, &report);
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE(writer->to_memory());
  for (const TensorReport& tensor : report) {
    EXPECT_EQ(tensor.requantized, tensor.from == Format::q8_0) << tensor.name;
    EXPECT_EQ(tensor.rmse > 0, tensor.from == Format::q8_0) << tensor.name;
  }
}

TEST(Quantize, WeightsThatAreNotFiniteAreAnError) {
  for (const float odd : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> weights(256 * 4, 0.5f);
    weights[256 * 2 + 7] = odd;
    gguf::Writer source;
    source.set("general.architecture", std::string_view("llama"));
    source.set("llama.block_count", std::uint32_t{1});
    const std::vector<std::uint64_t> dims{256, 4};
    source.add_tensor("blk.0.attn_q.weight", Format::f32, dims, std::as_bytes(std::span(weights)));
    const auto in = build(source);
    ASSERT_TRUE(in) << in.error().message;
    const auto bytes = quantize(in->file, FileType::q4_k_m)->to_memory();
    ASSERT_FALSE(bytes);
    EXPECT_NE(bytes.error().message.find("blk.0.attn_q.weight"), std::string::npos) << bytes.error().message;
    EXPECT_NE(bytes.error().message.find("row 2, column 7"), std::string::npos) << bytes.error().message;
  }
}

// One tensor of 32 columns and 2 rows, the second of which begins with `weight`; the rest is 0.5.
Result<std::vector<float>> quantized(float weight, FileType type) {
  std::vector<float> weights(64, 0.5f);
  weights[32] = weight;
  gguf::Writer source;
  source.set("general.architecture", std::string_view("llama"));
  source.set("llama.block_count", std::uint32_t{1});
  const std::vector<std::uint64_t> dims{32, 2};
  source.add_tensor("blk.0.attn_q.weight", Format::f32, dims, std::as_bytes(std::span(weights)));
  PLUMB_TRY(const Built in, build(source));
  PLUMB_TRY(const gguf::Writer writer, quantize(in.file, type));
  PLUMB_TRY(const Built out, build(writer));
  const gguf::Tensor& tensor = out.file.tensors()[0];
  std::vector<float> decoded(64);
  const quants::FormatInfo& format = quants::info(tensor.format);
  format.decode(tensor.data.data(), decoded.data(), decoded.size() / format.block_size);
  return decoded;
}

TEST(Quantize, WeightsThatAFormatCannotHoldAreAnError) {
  EXPECT_EQ(quantized(65504.0f, FileType::f16).value()[32], 65504.0f);
  for (const float weight : {65520.0f, -1e5f, 3e38f}) {
    const auto refused = quantized(weight, FileType::f16);
    ASSERT_FALSE(refused) << weight;
    for (const char* part : {"blk.0.attn_q.weight", "too large for F16", "row 1, column 0"})
      EXPECT_NE(refused.error().message.find(part), std::string::npos) << refused.error().message;
  }
  EXPECT_NEAR(quantized(3e38f, FileType::bf16).value()[32], 3e38f, 1e36f);
  EXPECT_FALSE(quantized(std::numeric_limits<float>::max(), FileType::bf16));
  for (const FileTypeInfo& type : file_types()) {
    if (quants::info(type.format).block_size != 32) continue;
    const std::vector<float> clamped = quantized(3e38f, type.type).value();
    for (const float decoded : clamped) EXPECT_TRUE(std::isfinite(decoded)) << type.name;
  }
}

TEST(Quantize, OffsetsReachBeyondTheLargestHalf) {
  for (const FileType type : {FileType::q4_1, FileType::q5_1}) {
    for (const float weight : {7e4f, 2e5f, 9e5f, -7e4f, -2e5f, -9e5f})
      EXPECT_NEAR(quantized(weight, type).value()[32], weight, 0.01f * std::fabs(weight)) << weight;
  }
}

TEST(FileTypes, ContradictTensorsOfAnotherFormat) {
  const auto contradiction = [](std::uint64_t file_type, Format format, std::uint64_t columns) {
    gguf::Writer writer;
    writer.set("general.file_type", file_type);
    add(writer, "blk.0.attn_norm.weight", Format::f32, {columns});
    const gguf::Writer::Produce zeros = [](std::span<std::byte>) -> Result<void> { return {}; };
    writer.add_tensor("blk.0.ffn_up.weight", format, std::vector<std::uint64_t>{columns, 4}, zeros);
    const auto file = build(writer);
    return file_type_contradiction(file->file).value_or("");
  };
  EXPECT_EQ(contradiction(15, Format::f32, 256),
            "test: key 'general.file_type' says Q4_K_M, but most weights are F32; the tensors count");
  EXPECT_NE(contradiction(0, Format::q8_0, 256), "");
  EXPECT_NE(contradiction(1, Format::bf16, 256), "");
  EXPECT_NE(contradiction(7, Format::q4_0, 256), "");
  EXPECT_NE(contradiction(28, Format::q4_0, 256), "");  // IQ2_S
  for (const auto& [type, format] : {std::pair(0, Format::f32), {1, Format::f16}, {15, Format::q4_k}, {7, Format::q8_0}})
    EXPECT_EQ(contradiction(static_cast<std::uint64_t>(type), format, 256), "");
  EXPECT_EQ(contradiction(15, Format::q5_0, 32), "");  // rows that are no whole number of blocks of 256
  EXPECT_EQ(contradiction(15, Format::f16, 48), "");   // nor of 32
  EXPECT_EQ(contradiction(10, Format::iq4_nl, 32), "");
  EXPECT_EQ(contradiction(4711, Format::f32, 256), "");  // not known
}

TEST(Quantize, AMissingBlockCountIsNamed) {
  gguf::Writer source;
  source.set("general.architecture", std::string_view("llama"));
  add(source, "blk.0.attn_q.weight", Format::f32, {256, 4});
  const auto in = build(source);
  ASSERT_TRUE(in) << in.error().message;
  const auto writer = quantize(in->file, FileType::q4_k_m);
  ASSERT_FALSE(writer);
  EXPECT_NE(writer.error().message.find("llama.block_count"), std::string::npos) << writer.error().message;
}

TEST(Quantize, ExpertsOutsideTheBlocksAreAnError) {
  gguf::Writer source;
  source.set("general.architecture", std::string_view("llama"));
  source.set("llama.block_count", std::uint32_t{2});
  source.set("llama.expert_count", std::uint32_t{4});
  add(source, "blk.2.ffn_down_exps.weight", Format::f32, {256, 2, 4});
  const auto in = build(source);
  ASSERT_TRUE(in) << in.error().message;
  const auto writer = quantize(in->file, FileType::q4_k_m);
  ASSERT_FALSE(writer);
  EXPECT_NE(writer.error().message.find("blk.2.ffn_down_exps.weight"), std::string::npos) << writer.error().message;
}

}  // namespace
}  // namespace plumb::model
