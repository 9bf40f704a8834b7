// The examples of a page: its blocks marked `vectors`. A record is the name of an operation on a line of its
// own, then fields, indented: a name, a colon and words, which may go on in further indented lines without a
// colon.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace omni::page {

// Words of a field, as they stand on the page: 0x and eight hex digits are an f32, four an fp16, sixteen an
// f64; decimal integers; trits as +, 0 and -.
using Words = std::vector<std::string>;

Words FloatWords(std::span<const float> x);
Words HalfWords(std::span<const uint16_t> x);
Words DoubleWords(std::span<const double> x);
template <typename Integers>
Words IntegerWords(const Integers& x) {
  Words words;
  for (auto v : x) words.push_back(std::to_string(v));
  return words;
}

struct Record {
  std::string operation;
  int line = 0;  // of the page
  std::map<std::string, Words> fields;
  std::vector<std::string> order;  // of the fields

  bool Has(const std::string& name) const { return fields.count(name) > 0; }
  // Of a field that must be there, every word of that kind. Throws std::runtime_error with the line
  // otherwise.
  std::vector<float> Floats(const std::string& name) const;
  std::vector<uint16_t> Halves(const std::string& name) const;
  std::vector<int64_t> Integers(const std::string& name) const;
  std::vector<int8_t> Codes(const std::string& name) const;  // integers of int8
  std::vector<int8_t> Trits(const std::string& name) const;  // of all words together
  float Float(const std::string& name) const;
  double Double(const std::string& name) const;
  int64_t Integer(const std::string& name) const;
  std::string Text() const;  // as the page writes it

 private:
  const Words& Field(const std::string& name) const;
  uint64_t Bits(const std::string& name, const std::string& word, size_t digits) const;
};

// All records of a page's text, in order. Throws std::runtime_error with the line of what is malformed.
std::vector<Record> ParseVectors(const std::string& page);

}  // namespace omni::page
