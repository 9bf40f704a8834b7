// The status page's files (web/), as the program carries them.
#pragma once

#include <cstddef>
#include <string>

#include "cluster/http/http_server.h"

namespace omni {

// Written by cmake/embed_files.cmake.
struct WebFileBytes {
  const char* name;  // below web/
  const unsigned char* bytes;
  size_t size;
  const char* sha256;  // hex digits
};
extern const WebFileBytes kWebFileBytes[];
extern const size_t kWebFileCount;

inline constexpr char kWebPath[] = "/web/";  // index.html is at "/" as well

// Whether the path names one of them.
bool IsWebFile(const std::string& path);
// The file, or that whoever asks has it already. A page may load and ask nothing but what this server has,
// and run no script and no style that stands in the page itself.
HttpAnswer WebFile(const HttpRequest& request);

}  // namespace omni
