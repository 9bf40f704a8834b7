#include "tests/docs/vectors.h"

#include <bit>
#include <charconv>
#include <cstdio>
#include <sstream>
#include <stdexcept>

namespace omni::page {
namespace {

std::string Hex(uint64_t bits, int digits) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%0*llx", digits, static_cast<unsigned long long>(bits));
  return text;
}

[[noreturn]] void Fail(int line, const std::string& what) {
  throw std::runtime_error("line " + std::to_string(line) + ": " + what);
}

// Appends one line of a block.
void ParseLine(const std::string& line, int number, std::vector<Record>* records) {
  if (line.find_first_not_of(' ') == std::string::npos) return;
  if (line[0] != ' ') {
    records->push_back({line, number, {}, {}});
    return;
  }
  if (records->empty()) Fail(number, "a field before any operation");
  Record& record = records->back();
  std::istringstream words(line);
  std::string word;
  words >> word;
  if (word.back() == ':') {
    word.pop_back();
    if (!record.fields.emplace(word, Words{}).second) Fail(number, "the field " + word + " again");
    record.order.push_back(word);
    words >> word;
    if (!words) return;
  }
  if (record.order.empty()) Fail(number, "words before any field");
  do record.fields[record.order.back()].push_back(word);
  while (words >> word);
}

}  // namespace

Words FloatWords(std::span<const float> x) {
  Words words;
  for (float v : x) words.push_back(Hex(std::bit_cast<uint32_t>(v), 8));
  return words;
}

Words HalfWords(std::span<const uint16_t> x) {
  Words words;
  for (uint16_t v : x) words.push_back(Hex(v, 4));
  return words;
}

Words DoubleWords(std::span<const double> x) {
  Words words;
  for (double v : x) words.push_back(Hex(std::bit_cast<uint64_t>(v), 16));
  return words;
}

const Words& Record::Field(const std::string& name) const {
  const auto it = fields.find(name);
  if (it == fields.end()) Fail(line, operation + " without " + name);
  return it->second;
}

uint64_t Record::Bits(const std::string& name, const std::string& word, size_t digits) const {
  uint64_t bits = 0;
  const char* end = word.data() + word.size();
  const auto [at, error] = std::from_chars(word.data() + 2, end, bits, 16);
  if (word.size() != digits + 2 || word.substr(0, 2) != "0x" || at != end || error != std::errc()) {
    Fail(line, name + ": " + word + " is not 0x and " + std::to_string(digits) + " hex digits");
  }
  return bits;
}

std::vector<float> Record::Floats(const std::string& name) const {
  std::vector<float> out;
  for (const std::string& word : Field(name)) {
    out.push_back(std::bit_cast<float>(static_cast<uint32_t>(Bits(name, word, 8))));
  }
  return out;
}

std::vector<uint16_t> Record::Halves(const std::string& name) const {
  std::vector<uint16_t> out;
  for (const std::string& word : Field(name)) out.push_back(static_cast<uint16_t>(Bits(name, word, 4)));
  return out;
}

std::vector<int64_t> Record::Integers(const std::string& name) const {
  std::vector<int64_t> out;
  for (const std::string& word : Field(name)) {
    int64_t value = 0;
    const char* end = word.data() + word.size();
    if (std::from_chars(word.data(), end, value).ptr != end)
      Fail(line, name + ": " + word + " is no integer");
    out.push_back(value);
  }
  return out;
}

std::vector<int8_t> Record::Codes(const std::string& name) const {
  std::vector<int8_t> out;
  for (int64_t v : Integers(name)) out.push_back(static_cast<int8_t>(v));
  return out;
}

std::vector<int8_t> Record::Trits(const std::string& name) const {
  std::vector<int8_t> out;
  for (const std::string& word : Field(name)) {
    for (char c : word) {
      if (c != '+' && c != '0' && c != '-') Fail(line, name + ": " + word + " is not of +, 0 and -");
      out.push_back(static_cast<int8_t>((c == '+') - (c == '-')));
    }
  }
  return out;
}

float Record::Float(const std::string& name) const {
  const std::vector<float> all = Floats(name);
  if (all.size() != 1) Fail(line, name + " is not one word");
  return all[0];
}

double Record::Double(const std::string& name) const {
  if (Field(name).size() != 1) Fail(line, name + " is not one word");
  return std::bit_cast<double>(Bits(name, Field(name)[0], 16));
}

int64_t Record::Integer(const std::string& name) const {
  const std::vector<int64_t> all = Integers(name);
  if (all.size() != 1) Fail(line, name + " is not one word");
  return all[0];
}

std::string Record::Text() const {
  constexpr size_t kWidth = 100;
  std::string text = operation + "\n";
  for (const std::string& name : order) {
    std::string row = "  " + name + ":";
    for (const std::string& word : fields.at(name)) {
      if (row.size() + 1 + word.size() > kWidth) {
        text += row + "\n";
        row = "   ";
      }
      row += " " + word;
    }
    text += row + "\n";
  }
  return text;
}

std::vector<Record> ParseVectors(const std::string& page) {
  std::vector<Record> records;
  std::istringstream lines(page);
  std::string line;
  bool inside = false;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (!inside) {
      inside = line == "```vectors";
    } else if (line == "```") {
      inside = false;
    } else {
      ParseLine(line, number, &records);
    }
  }
  if (inside) throw std::runtime_error("the last block of vectors does not end");
  return records;
}

}  // namespace omni::page
