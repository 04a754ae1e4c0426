#include "gguf/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/system_error.h"

namespace plumb::gguf {
namespace {

struct Descriptor {
  int fd;
  explicit Descriptor(int value) : fd(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

Result<Mapping> Mapping::open(const std::filesystem::path& path) {
  // O_NONBLOCK: without it, opening a named pipe would wait for a writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) return fail("{}: cannot open: {}", path.string(), system_reason(errno));
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) return fail("{}: cannot read its size: {}", path.string(), system_reason(errno));
  if (S_ISDIR(status.st_mode)) return fail("{}: is a folder; name a file in it", path.string());
  if (!S_ISREG(status.st_mode)) {
    return fail("{}: is no regular file; its bytes are mapped, so save them to a file first", path.string());
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return Mapping(nullptr, 0, path);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return fail("{}: cannot map {} bytes: {}", path.string(), size, system_reason(errno));
  return Mapping(static_cast<const std::byte*>(data), size, path);
}

// munmap takes void* for memory that it does not write.
void Mapping::Unmap::operator()(const std::byte* data) const { ::munmap(const_cast<std::byte*>(data), size); }

}  // namespace plumb::gguf
