#include "base/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/system_error.h"

namespace plumb {

namespace {

Result<std::filesystem::path> replaceable(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::none) return fail("{}: {}", path.string(), error.message());
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    return fail("{}: exists and is no regular file; name another", path.string());
  }
  // Step by step, since the last link may point to a file that is not there yet.
  std::filesystem::path target = path;
  while (std::filesystem::is_symlink(std::filesystem::symlink_status(target, error))) {
    target = target.parent_path() / std::filesystem::read_symlink(target, error);
    if (error) return fail("{}: cannot follow the link: {}", path.string(), error.message());
  }
  return target;
}

// Writes all bytes with a call that may write only some of them at a time.
template <class Write>
Result<void> write_all(const std::filesystem::path& path, std::span<const std::byte> bytes, Write write) {
  while (!bytes.empty()) {
    const ssize_t n = write(bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("{}: cannot write {} more bytes: {}", path.string(), bytes.size(), system_reason(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

NewFile::NewFile(int fd, std::filesystem::path temporary, std::filesystem::path target, RemovedAtSignal removed)
    : fd_(fd), temporary_(std::move(temporary)), target_(std::move(target)), removed_(std::move(removed)) {}

NewFile::NewFile(NewFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      temporary_(std::exchange(other.temporary_, {})),
      target_(std::move(other.target_)),
      removed_(std::move(other.removed_)) {}

NewFile::~NewFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Result<NewFile> NewFile::create(const std::filesystem::path& path) {
  constexpr int attempts = 1000;
  PLUMB_TRY(auto target, replaceable(path));
  int error = 0;
  for (int i = 0; i < attempts; ++i) {
    std::filesystem::path temporary = target;
    temporary += fmt::format(".{}-{}.tmp", ::getpid(), i);
    RemovedAtSignal removed(temporary.native());
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return NewFile(fd, std::move(temporary), std::move(target), std::move(removed));
    error = errno;
    if (error != EEXIST) break;
  }
  return fail("{}: cannot create a file beside it: {}", target.string(), system_reason(error));
}

Result<void> NewFile::append(std::span<const std::byte> bytes) {
  return write_all(target_, bytes, [&](std::span<const std::byte> rest) { return ::write(fd_, rest.data(), rest.size()); });
}

Result<void> NewFile::extend(std::uint64_t n) {
  const off_t end = ::lseek(fd_, 0, SEEK_END);
  if (end < 0 || ::ftruncate(fd_, end + static_cast<off_t>(n)) != 0 || ::lseek(fd_, 0, SEEK_END) < 0)
    return fail("{}: cannot make it {} bytes longer: {}", target_.string(), n, system_reason(errno));
  return {};
}

Result<void> NewFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  const std::size_t n = bytes.size();
  return write_all(target_, bytes, [&](std::span<const std::byte> rest) {
    return ::pwrite(fd_, rest.data(), rest.size(), static_cast<off_t>(offset + (n - rest.size())));
  });
}

Result<void> NewFile::finish() {
  if (::close(std::exchange(fd_, -1)) != 0) {
    return fail("{}: cannot finish writing: {}", target_.string(), system_reason(errno));
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    return fail("{}: cannot give {} this name: {}", target_.string(), temporary_.string(), system_reason(errno));
  }
  temporary_.clear();
  removed_.reset();
  return {};
}

}  // namespace plumb
