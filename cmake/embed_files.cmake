# Writes OUT, a C++ file with the bytes of FILES, each with the name that it has below ROOT, its size and its SHA-256:
#   cmake -DOUT=web_bytes.cc -DROOT=web -DFILES=index.html|page.css -P embed_files.cmake
string(REPLACE "|" ";" files "${FILES}")
set(arrays "")
set(rows "")
set(number 0)
foreach(file IN LISTS files)
  file(READ "${ROOT}/${file}" hex HEX)
  file(SHA256 "${ROOT}/${file}" hash)
  string(LENGTH "${hex}" digits)
  math(EXPR bytes "${digits} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," values "${hex}")
  string(APPEND arrays "constexpr unsigned char kFile${number}[] = {\n${values}0};\n")
  string(APPEND rows "    {\"${file}\", kFile${number}, ${bytes}, \"${hash}\"},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE "${OUT}" "#include \"cluster/http/web_files.h\"

namespace omni {
namespace {

${arrays}
}  // namespace

const WebFileBytes kWebFileBytes[] = {
${rows}};
const size_t kWebFileCount = ${number};

}  // namespace omni
")
