// A token's confidence and notes as the inference service tells them, and back.
#pragma once

#include <string>

#include <absl/status/status.h>

#include "actors/generate.h"
#include "omni/inference/v1/inference.pb.h"

namespace omni {

inference::v1::Confidence ToProto(const TokenConfidence& confidence);
// Of the token `token`; the probability in its verdict is not told.
TokenConfidence FromProto(const inference::v1::Confidence& confidence, TokenId token);

// Of an answer that was begun without the adapter that was asked for.
absl::Status NotAdapted(const std::string& coordinator);

void TellNotes(const TokenNotes& notes, inference::v1::Token& token);
TokenNotes NotesOf(const inference::v1::Token& token);

}  // namespace omni
