// The operations of docs/arithmetic.md's examples: from a record's inputs to its outputs, in the page's
// arithmetic and in the product's.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels/op.h"
#include "tests/docs/vectors.h"

namespace omni::page {

using Outputs = std::map<std::string, Words>;

// Every operation that the page must give examples of.
std::vector<std::string> OperationNames();

// All outputs of a record of one of these operations. Throws std::runtime_error for another one, and for a
// record whose inputs are missing or malformed.
Outputs ByPage(const Record& record);
// Those that the product lets one see.
Outputs ByProduct(const Record& record, const kernels::Ops& ops);

}  // namespace omni::page
