#include "store/format/tile_users.h"

namespace omni {

TileUsers UsersOf(const TileContents& contents) {
  const TableNumbers& numbers = contents.numbers();
  TileUsers users;
  users.experts = numbers.experts();
  // A table that has a tile twice is one user of it: `last` is the last table counted for a tile.
  std::vector<int64_t> last(static_cast<size_t>(contents.unique()), -1);
  const auto for_each_use = [&](auto&& visit) {
    std::fill(last.begin(), last.end(), -1);
    for (int64_t table = 0; table < numbers.tables(); ++table) {
      for (int64_t t = 0; t < numbers.tiles(); ++t) {
        const uint32_t content = contents.Of(table)[t];
        if (last[content] == table) continue;
        last[content] = table;
        visit(static_cast<uint32_t>(table), content);
      }
    }
  };
  users.first.assign(static_cast<size_t>(contents.unique()) + 1, 0);
  for_each_use([&](uint32_t, uint32_t content) { ++users.first[content + 1]; });
  for (size_t i = 1; i < users.first.size(); ++i) users.first[i] += users.first[i - 1];
  users.users.resize(users.first.back());
  std::vector<uint32_t> at(users.first.begin(), users.first.end() - 1);
  for_each_use([&](uint32_t table, uint32_t content) { users.users[at[content]++] = table; });
  return users;
}

}  // namespace omni
