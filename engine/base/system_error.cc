#include "engine/base/system_error.h"

#include <cerrno>
#include <cstring>

#include <absl/strings/str_cat.h>

namespace omni {

absl::Status SystemError(const std::string& path, std::string_view action, int error) {
  const std::string text = absl::StrCat(path, ": cannot ", absl::string_view(action.data(), action.size()),
                                        ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case EEXIST:
      return absl::AlreadyExistsError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(text + "; free some space or choose another disk");
    case EFBIG:
      return absl::ResourceExhaustedError(text + "; raise the file size limit (ulimit -f)");
    case EMFILE:
      return absl::ResourceExhaustedError(text + "; allow more open files (ulimit -n)");
    case ENFILE:
      return absl::ResourceExhaustedError(text + "; end other programs or raise the sysctl fs.file-max");
    case EROFS:
      return absl::FailedPreconditionError(text + "; choose a place that can be written");
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    case EIO:
      return absl::UnavailableError(text + "; the device failed: look at the kernel's log (dmesg)");
    default:
      return absl::UnavailableError(text);
  }
}

}  // namespace omni
