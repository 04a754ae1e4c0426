#include "base/new_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>

namespace plumb {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class NewFileTest : public testing::Test {
 protected:
  NewFileTest() {
    std::string name = (fs::temp_directory_path() / "plumb-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~NewFileTest() override { fs::remove_all(folder_); }

  static std::string content(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  static void put(const fs::path& path, std::string_view text) { std::ofstream(path) << text; }
  [[nodiscard]] std::size_t n_files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  fs::path folder_;
};

TEST_F(NewFileTest, IsThereOnlyWhenItIsFinished) {
  const fs::path path = folder_ / "file";
  put(path, "old");
  {
    auto file = NewFile::create(path);
    ASSERT_TRUE(file) << file.error().message;
    ASSERT_TRUE(file->append(bytes("ab")));
    ASSERT_TRUE(file->extend(3));
    ASSERT_TRUE(file->append(bytes("cd")));
    ASSERT_TRUE(file->extend(1));
    ASSERT_TRUE(file->write_at(3, bytes("x")));
    ASSERT_TRUE(file->append(bytes("e")));
    EXPECT_EQ(content(path), "old");
    NewFile moved = std::move(*file);
    ASSERT_TRUE(moved.finish());
    EXPECT_EQ(content(path), std::string_view("ab\0x\0cd\0e", 9));
  }
  EXPECT_EQ(content(path).size(), 9U);
  EXPECT_EQ(n_files(), 1U);
}

TEST_F(NewFileTest, LeavesNothingWhereItIsNotFinished) {
  const fs::path path = folder_ / "file";
  ASSERT_TRUE(NewFile::create(path)->append(bytes("ab")));
  EXPECT_EQ(n_files(), 0U);
}

TEST_F(NewFileTest, ManyMayBeWrittenAtOnce) {
  const fs::path path = folder_ / "file";
  auto first = NewFile::create(path), second = NewFile::create(path);
  ASSERT_TRUE(first && second);
  ASSERT_TRUE(first->append(bytes("first")) && second->append(bytes("second")));
  ASSERT_TRUE(second->finish() && first->finish());
  EXPECT_EQ(content(path), "first");
}

TEST_F(NewFileTest, ReplacesWhatALinkPointsTo) {
  put(folder_ / "file", "old");
  fs::create_symlink("file", folder_ / "link");
  fs::create_symlink("absent", folder_ / "dangling");
  for (const char* name : {"link", "dangling"}) {
    auto file = NewFile::create(folder_ / name);
    ASSERT_TRUE(file && file->append(bytes(name)) && file->finish());
    EXPECT_TRUE(fs::is_symlink(folder_ / name));
  }
  EXPECT_EQ(content(folder_ / "file"), "link");
  EXPECT_EQ(content(folder_ / "absent"), "dangling");
  fs::create_directory(folder_ / "sub");
  fs::create_symlink("../link", folder_ / "sub" / "further");
  auto file = NewFile::create(folder_ / "sub" / "further");
  ASSERT_TRUE(file && file->append(bytes("over two links")) && file->finish());
  EXPECT_EQ(content(folder_ / "file"), "over two links");
}

TEST_F(NewFileTest, ReplacesOnlyFiles) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const fs::path& path : {folder_, pipe, fs::path("/dev/null")}) {
    const auto file = NewFile::create(path);
    ASSERT_FALSE(file) << path;
    EXPECT_NE(file.error().message.find(path.string() + ": exists and is no regular file"), std::string::npos);
  }
  fs::create_symlink("loop", folder_ / "loop");
  EXPECT_FALSE(NewFile::create(folder_ / "loop"));
  const auto nowhere = NewFile::create(folder_ / "no" / "file");
  ASSERT_FALSE(nowhere);
  EXPECT_NE(nowhere.error().message.find("cannot create a file beside it: No such file"), std::string::npos);
}

}  // namespace
}  // namespace plumb
