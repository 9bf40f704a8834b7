// All that a program left in a folder, whatever it did to it.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <string>

#include <absl/status/status.h>

namespace omni {

struct FolderEntry {
  int folder = -1;          // a descriptor of the folder that it is in, during the call
  const char* name = "";    // there
  const std::string& path;  // below the folder that is walked
  const struct stat& about;
};

// Every entry below `folder`, each folder before what is in it. Links are not followed, `folder` itself
// being one neither; folders that may not be read are made so that their owner may. Errors of `visit`
// end it; ResourceExhausted, folders lie in folders for more than 100 levels; and those of the system, except
// that what goes meanwhile is left out.
absl::Status WalkFolder(const std::string& folder,
                        const std::function<absl::Status(const FolderEntry&)>& visit);

// What is below a folder takes, empty files and folders too; and INT64_MAX if that cannot be said.
int64_t FolderBytes(const std::string& folder);

// With all that is in it, of any depth. What cannot be removed stays.
void RemoveFolder(const std::string& folder);

}  // namespace omni
