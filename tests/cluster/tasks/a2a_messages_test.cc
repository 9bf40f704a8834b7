#include "cluster/tasks/a2a_messages.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/tasks/a2a_error.h"
#include "cluster/tasks/a2a_json.h"
#include "cluster/tasks/utf8_pieces.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

a2a::SendMessageRequest Request(const json& extra = {}) {
  json message = {{"messageId", "m1"}, {"role", "ROLE_USER"}, {"parts", {{{"text", "the sea"}}}}};
  if (extra.contains("message")) message.update(extra["message"]);
  json request = {{"message", message}};
  if (extra.contains("configuration")) request["configuration"] = extra["configuration"];
  a2a::SendMessageRequest read;
  EXPECT_TRUE(ReadA2aJson(request, &read).ok());
  return read;
}
std::string ReasonOf(const json& extra) {
  const auto read = ReadA2aMessage(Request(extra));
  return read.ok() ? "" : A2aErrorOf(read.status()).reason;
}
tasks::v1::Work WorkOf(const TaskSubmission& submission) {
  tasks::v1::Work work;
  EXPECT_TRUE(work.ParseFromString(submission.spec.input));
  return work;
}

TEST(A2aMessage, IsATaskOfTheModelWithItsIdAsKey) {
  const auto read = ReadA2aMessage(Request());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->spec.executor, "model");
  EXPECT_EQ(WorkOf(*read).model().prompt(), "the sea");
  EXPECT_EQ(read->key, "a2a:m1");
  // The same message again has to be the same task, so its context follows from it.
  EXPECT_EQ(read->spec.context, "context-m1");
  EXPECT_EQ(ReadA2aMessage(Request({{"message", {{"contextId", "c"}}}}))->spec.context, "c");
}

TEST(A2aMessage, NamesASkillAndItsFurtherFieldsAsData) {
  const json parts = {{{"text", "in"}}, {{"data", {{"arguments", {"-l"}}}}}};
  const auto read =
      ReadA2aMessage(Request({{"message", {{"parts", parts}, {"metadata", {{"skill", "command/list"}}}}}}));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->spec.executor, "command");
  EXPECT_EQ(read->spec.target, "list");
  EXPECT_EQ(WorkOf(*read).command().input(), "in");
  EXPECT_THAT(WorkOf(*read).command().arguments(), ElementsAre("-l"));
}

TEST(A2aMessage, IsRefusedWithAReason) {
  EXPECT_EQ(ReasonOf({{"message", {{"messageId", ""}}}}), "INVALID_PARAMS");
  EXPECT_EQ(ReasonOf({{"message", {{"messageId", std::string(300, 'm')}}}}), "INVALID_PARAMS");
  EXPECT_EQ(ReasonOf({{"message", {{"role", "ROLE_AGENT"}}}}), "INVALID_PARAMS");
  EXPECT_EQ(ReasonOf({{"message", {{"parts", json::array()}}}}), "INVALID_PARAMS");
  EXPECT_EQ(ReasonOf({{"message", {{"metadata", {{"skill", "fly"}}}}}}), "INVALID_PARAMS");
  EXPECT_EQ(ReasonOf({{"message", {{"parts", {{{"url", "https://a.example/f"}}}}}}}),
            "CONTENT_TYPE_NOT_SUPPORTED");
  EXPECT_EQ(ReasonOf({{"message", {{"parts", {{{"text", "x"}, {"mediaType", "image/png"}}}}}}}),
            "CONTENT_TYPE_NOT_SUPPORTED");
  EXPECT_EQ(ReasonOf({{"configuration", {{"acceptedOutputModes", {"image/png"}}}}}),
            "CONTENT_TYPE_NOT_SUPPORTED");
  EXPECT_EQ(ReasonOf({{"configuration", {{"acceptedOutputModes", {"image/png", "text/*"}}}}}), "");
}

TEST(A2aState, FollowsFromStatusAttemptAndError) {
  EXPECT_EQ(A2aStateOf(TaskStatus::kQueued, 0, ""), a2a::TASK_STATE_SUBMITTED);
  EXPECT_EQ(A2aStateOf(TaskStatus::kScheduled, 1, "lost"), a2a::TASK_STATE_WORKING);
  EXPECT_EQ(A2aStateOf(TaskStatus::kFailed, 1, "lost"), a2a::TASK_STATE_FAILED);
  EXPECT_EQ(A2aStateOf(TaskStatus::kFailed, 1, kErrorInvalid), a2a::TASK_STATE_REJECTED);
  // Whatever state a task is in, a list of that state looks at its status.
  for (int status = 1; status <= kTaskStatuses; ++status) {
    for (const char* error : {"", kErrorInvalid, "lost"}) {
      for (const int attempt : {0, 1}) {
        const auto of = static_cast<TaskStatus>(status);
        const auto all = StatusesOf(A2aStateOf(of, attempt, error));
        ASSERT_TRUE(all.ok());
        EXPECT_THAT(*all, ::testing::Contains(of));
      }
    }
  }
  EXPECT_FALSE(StatusesOf(a2a::TASK_STATE_INPUT_REQUIRED).ok());
}

TEST(A2aMessages, AListsTimeIsUpToWholeMillisecondsAndOneThatIsNoneIsRefused) {
  a2a::ListTasksRequest request;
  EXPECT_FALSE(ReadA2aFilter(request)->updated_since.has_value());
  google::protobuf::Timestamp& since = *request.mutable_status_timestamp_after();
  since.set_seconds(-2);
  since.set_nanos(1);
  EXPECT_EQ(ReadA2aFilter(request)->updated_since, TaskTime(TaskDuration(-1999)));
  for (const int64_t seconds : {INT64_MIN, int64_t{-62'135'596'801}, int64_t{253'402'300'800}, INT64_MAX}) {
    since.set_seconds(seconds);
    EXPECT_TRUE(absl::IsInvalidArgument(ReadA2aFilter(request).status())) << seconds;
  }
  since.set_seconds(0);
  for (const int32_t nanos : {-1, 1'000'000'000}) {
    since.set_nanos(nanos);
    EXPECT_TRUE(absl::IsInvalidArgument(ReadA2aFilter(request).status())) << nanos;
  }
}

TaskEvent Event(int64_t number, TaskEventKind kind, int attempt, const std::string& name = "",
                const std::string& data = "", TaskStatus status = TaskStatus::kRunning) {
  return {.number = number,
          .kind = kind,
          .attempt = attempt,
          .status = status,
          .node = "n1",
          .name = name,
          .data = data};
}

TEST(A2aUpdates, AppendWholeCharactersAndSayWhereTheyComeFrom) {
  TaskState state;
  state.id = "t";
  state.executor = "model";
  state.context = "c";
  A2aUpdates updates(state, true);
  std::vector<a2a::StreamResponse> all;
  const auto none = [] { return std::string("all"); };
  updates.Apply(Event(1, TaskEventKind::kSubmitted, 0), none, &all);
  updates.Apply(Event(2, TaskEventKind::kOutput, 1, "text", "a\xC3"), none, &all);
  updates.Apply(Event(3, TaskEventKind::kOutput, 2, "text",
                      "\xA4"
                      "b\xE2\x82"),
                none, &all);
  updates.Apply(Event(4, TaskEventKind::kOver, 2, "", "", TaskStatus::kSucceeded), none, &all);
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].artifact_update().artifact().parts(0).text(), "a");
  EXPECT_FALSE(all[0].artifact_update().append());
  // A model's second attempt goes on with the first's artifact.
  EXPECT_EQ(all[1].artifact_update().artifact().artifact_id(), "text");
  EXPECT_EQ(all[1].artifact_update().artifact().parts(0).text(),
            "\xC3\xA4"
            "b");
  EXPECT_TRUE(all[1].artifact_update().append());
  EXPECT_EQ(all[2].artifact_update().artifact().parts(0).text(), "\xEF\xBF\xBD");
  EXPECT_EQ(all[3].status_update().status().state(), a2a::TASK_STATE_COMPLETED);
  const json metadata = A2aJson(all[1])["artifactUpdate"]["metadata"][kA2aExtension];
  EXPECT_EQ(metadata, (json{{"sequence", 3}, {"attempt", 2}, {"node", "n1"}}));
  a2a::Task task;
  for (const auto& update : all) MergeA2a(update, 1000, &task);
  ASSERT_EQ(task.artifacts_size(), 1);
  EXPECT_EQ(task.artifacts(0).parts(0).text(),
            "a\xC3\xA4"
            "b\xEF\xBF\xBD");
}

TEST(A2aUpdates, OfAnotherAttemptAreAnotherArtifactWhereItBeginsAnew) {
  TaskState state;
  state.id = "t";
  state.executor = "command";
  A2aUpdates updates(state, false);
  std::vector<a2a::StreamResponse> all;
  updates.Apply(Event(1, TaskEventKind::kOutput, 1, "stdout", "one"), nullptr, &all);
  updates.Apply(Event(2, TaskEventKind::kAttemptFailed, 1, "lost", "gone", TaskStatus::kScheduled), nullptr,
                &all);
  updates.Apply(Event(3, TaskEventKind::kOutput, 2, "stdout", "two"), nullptr, &all);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[1].status_update().status().message().parts(0).text(), "lost: gone");
  EXPECT_EQ(all[1].status_update().status().state(), a2a::TASK_STATE_WORKING);
  EXPECT_EQ(all[2].artifact_update().artifact().artifact_id(), "stdout-2");
  EXPECT_FALSE(all[2].artifact_update().append());
  EXPECT_FALSE(all[2].artifact_update().has_metadata());
}

TEST(A2aUpdates, OfATaskWithAResultAloneHaveItAsArtifact) {
  TaskState state;
  A2aUpdates updates(state, false);
  std::vector<a2a::StreamResponse> all;
  updates.Apply(
      Event(1, TaskEventKind::kOver, 1, "", "", TaskStatus::kSucceeded), [] { return "42"; }, &all);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].artifact_update().artifact().artifact_id(), "result");
  EXPECT_EQ(all[0].artifact_update().artifact().parts(0).text(), "42");
}

TEST(MergeA2a, LeavesOutWhatIsTooMuchAndSaysSo) {
  TaskState state;
  state.executor = "model";
  A2aUpdates updates(state, false);
  std::vector<a2a::StreamResponse> all;
  for (int i = 1; i <= 3; ++i)
    updates.Apply(Event(i, TaskEventKind::kOutput, 1, "text", "\xC3\xA4\xC3\xA4\xC3\xA4"), nullptr, &all);
  a2a::Task task;
  for (const auto& update : all) MergeA2a(update, 9, &task);
  EXPECT_EQ(task.artifacts(0).parts(0).text(), "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4");
  EXPECT_TRUE(A2aJson(task)["artifacts"][0]["metadata"]["truncated"]);
}

TEST(A2aJson, OfAListHasAllItsFieldsAndUnknownOnesAreLeftOut) {
  const json list = A2aJson(a2a::ListTasksResponse());
  EXPECT_EQ(list, (json{{"tasks", json::array()}, {"nextPageToken", ""}, {"pageSize", 0}, {"totalSize", 0}}));
  a2a::GetTaskRequest request;
  EXPECT_TRUE(ReadA2aJson({{"id", "t"}, {"later", 1}}, &request).ok());
  EXPECT_EQ(request.id(), "t");
  EXPECT_EQ(A2aErrorOf(ReadA2aJson({{"id", 1.5}}, &request)).reason, "INVALID_PARAMS");
  EXPECT_EQ(A2aErrorOf(ParseA2aJson("{").status()).rpc, -32700);
  EXPECT_FALSE(ParseA2aJson(std::string(100, '[') + std::string(100, ']')).ok());
}

TEST(LegacyMessage, IsReadAndItsTaskToldAsInVersion03) {
  const json params = {{"message",
                        {{"kind", "message"},
                         {"messageId", "m"},
                         {"role", "user"},
                         {"parts", {{{"kind", "text"}, {"text", "sea"}}}}}},
                       {"configuration", {{"blocking", false}}}};
  const auto read = ReadLegacyMessage(params);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->message().parts(0).text(), "sea");
  EXPECT_TRUE(read->configuration().return_immediately());
  for (const json& wrong : {json(1), json::object(), json{{"message", 1}}, json{{"message", {{"role", 1}}}},
                            json{{"message", {{"role", "user"}, {"parts", {1}}}}},
                            json{{"message", {{"role", "user"}, {"parts", {{{"kind", 1}}}}}}}}) {
    EXPECT_FALSE(ReadLegacyMessage(wrong).ok()) << wrong;
  }
  TaskState state;
  state.id = "t";
  state.status = TaskStatus::kCancelled;
  const json task = LegacyTaskJson(TellA2aTask(state, false));
  EXPECT_EQ(task["kind"], "task");
  EXPECT_EQ(task["status"]["state"], "canceled");
}

TEST(Utf8Pieces, AreValidHoweverTheyAreCut) {
  const std::string text =
      "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x8C\x8A\xFF"
      "b\xED\xA0\x80";
  std::string whole_pending;
  std::string whole = TakeUtf8(text, &whole_pending);
  whole += EndUtf8(&whole_pending);
  EXPECT_EQ(whole,
            "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x8C\x8A\xEF\xBF\xBD"
            "b\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    std::string pending, all = TakeUtf8(text.substr(0, cut), &pending);
    EXPECT_LE(pending.size(), 3u);
    all += TakeUtf8(text.substr(cut), &pending);
    all += EndUtf8(&pending);
    EXPECT_EQ(all, whole) << cut;
  }
}

}  // namespace
}  // namespace omni
