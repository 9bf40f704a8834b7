#include "cli/device_flags.h"

#include <charconv>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/sizes.h"
#include "engine/decode/device_library.h"

namespace omni::cli {
namespace {

constexpr int kMostDevices = 64;

// cpu, cuda, cuda:1, auto, auto:1.
std::string ReadDevice(const std::string& text, DeviceChoice& choice) {
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  if (kind == "cpu" && colon == std::string::npos) {
    choice.kind = DeviceChoice::Kind::kCpu;
    return {};
  }
  if (kind == "cuda" || kind == "auto") {
    choice.kind = kind == "cuda" ? DeviceChoice::Kind::kCuda : DeviceChoice::Kind::kAuto;
    if (colon == std::string::npos) return {};
    const std::string number = text.substr(colon + 1);
    const char* end = number.data() + number.size();
    const auto [stopped, error] = std::from_chars(number.data(), end, choice.device);
    if (error == std::errc() && stopped == end && choice.device >= 0 && choice.device < kMostDevices)
      return {};
  }
  return absl::StrCat("'", text, "' is no device; cpu, cuda, auto, cuda:N and auto:N are, with N from 0 on");
}

}  // namespace

CLI::Option* DeviceFlags::AddDevice(Verb& verb) {
  return verb.Value(
      "--device", "DEVICE",
      [this](const std::string& text) {
        DeviceChoice choice;
        std::string wrong = ReadDevice(text, choice);
        if (wrong.empty()) device_ = text;
        return wrong;
      },
      "What computes: cpu (default), cuda or auto, a GPU if one can be used; cuda:N and auto:N take the "
      "GPU with the number N");
}

void DeviceFlags::Add(Verb& verb, GivenFlags* of_this_process) {
  const CLI::Option* device = AddDevice(verb);
  const CLI::Option* vram = verb.Size(
      "--vram", vram_, "Memory that may be taken of the GPU, such as 4G (default: what is free of it)");
  vram_given_ = Verb::OnCommandLine(vram);
  if (of_this_process == nullptr) return;
  of_this_process->Add(device);
  of_this_process->Add(vram);
}

absl::StatusOr<DeviceChoice> DeviceFlags::Choice() const {
  DeviceChoice choice;
  if (const std::string wrong = ReadDevice(device_, choice); !wrong.empty()) return UsageError(wrong);
  if (choice.kind == DeviceChoice::Kind::kCpu && vram_given_ && vram_given_()) {
    return UsageError("--vram does nothing here: the CPU computes; leave it out, or give --device cuda");
  }
  choice.memory_cap = vram_;
  return choice;
}

absl::StatusOr<DevicesHere> FindDevices() {
  absl::StatusOr<std::string> library = LoadDeviceLibrary();
  if (!library.ok()) return library.status();
  DevicesHere here{*std::move(library), {}};
  for (int i = 0; i < kernels::device::Count(); ++i) {
    kernels::device::Properties properties;
    // Of one that cannot be used nothing is known but that it is there.
    if (!kernels::device::Use(i)) static_cast<void>(kernels::device::Describe(i, &properties));
    here.devices.push_back(properties);
  }
  return here;
}

nlohmann::json DeviceJson(const DeviceReport& report) {
  return {{"name", report.name},
          {"experts", report.experts},
          {"memory_used_bytes", report.memory_used},
          {"memory_cap_bytes", report.memory_cap},
          {"bytes_streamed", report.bytes_streamed},
          {"graphs", report.graphs},
          {"passes", report.passes},
          {"fallbacks", report.fallbacks},
          {"lost", report.lost}};
}

std::string DescribeDevice(const DeviceReport& report) {
  std::string text = absl::StrCat(report.name, ", experts ", report.experts, ", ",
                                  SizeText(report.memory_used), " of ", SizeText(report.memory_cap));
  if (report.lost) absl::StrAppend(&text, ", lost");
  if (report.fallbacks > 0) absl::StrAppend(&text, ", ", report.fallbacks, " passes by the CPU");
  return text;
}

}  // namespace omni::cli
