#include "cluster/disk_pool.h"

#include <future>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(DiskPool, AJobThatThrowsIsAnErrorOfItsOwnAndTheNextIsDone) {
  std::vector<absl::Status> ends(4, absl::UnknownError("nothing was said"));
  {
    const auto pool = DiskPool::Start(1);
    ASSERT_TRUE(pool.ok()) << pool.status();
    const auto run = [&](size_t number, std::function<void()> work) {
      (*pool)->Run([&, number, work = std::move(work)] { work(), ends[number] = absl::OkStatus(); },
                   [&, number](const absl::Status& thrown) { ends[number] = thrown; });
    };
    run(0, [] { throw std::bad_alloc(); });
    run(1, [] {});
    run(2, [] { throw std::length_error("a string without end"); });
    run(3, [] {});
  }
  EXPECT_EQ(ends[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ends[0].message(), "there is no memory for this call; ask again later");
  EXPECT_EQ(ends[1], absl::OkStatus());
  EXPECT_EQ(ends[2], absl::InternalError("a string without end"));
  EXPECT_EQ(ends[3], absl::OkStatus());
}

}  // namespace
}  // namespace omni
