#include "cli/chat/line_reader.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>

namespace omni::cli {
namespace {

// Ctrl-C at the prompt ends the waiting, and nothing else: the handler writes to a pipe that is waited for
// beside the terminal, so that neither when it comes nor which thread takes it makes a difference.
int interrupt_pipe[2] = {-1, -1};

class InterruptsRead {
 public:
  InterruptsRead() {
    struct sigaction action = {};
    action.sa_handler = [](int) {
      const int error = errno;
      [[maybe_unused]] const ssize_t told = write(interrupt_pipe[1], "i", 1);
      errno = error;
    };
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptsRead() { sigaction(SIGINT, &before_, nullptr); }
  InterruptsRead(const InterruptsRead&) = delete;
  InterruptsRead& operator=(const InterruptsRead&) = delete;

 private:
  struct sigaction before_ = {};
};

// Whether there was an interrupt that nobody has taken yet.
bool TakeInterrupt() {
  char told[16];
  bool any = false;
  while (read(interrupt_pipe[0], told, sizeof told) > 0) any = true;
  return any;
}

bool OpenInterruptPipe() {
  return interrupt_pipe[0] >= 0 || pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) == 0;
}

// Until there is something to read, or its end; false: an interrupt came first.
bool WaitForInput() {
  while (true) {
    pollfd ready[2] = {{interrupt_pipe[0], POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (poll(ready, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return true;  // reading says what is wrong
    }
    if (ready[0].revents != 0 && TakeInterrupt()) return false;
    if (ready[1].revents != 0) return true;
  }
}

// What `read` gives, in which interrupts are WaitForInput's.
template <typename Read>
LineReader::End WithInterrupts(Read read) {
  LineReader::End end;
  {
    const InterruptsRead interrupts;
    end = read();
  }
  // Pressed when the line had ended already: it is meant for what follows.
  if (end == LineReader::End::kLine && TakeInterrupt()) raise(SIGINT);
  return end;
}

// Of libedit: the next character of the terminal, 1; 0 at its end; -1 with EINTR after an interrupt.
int NextCharacter(EditLine*, wchar_t* out) {
  std::mbstate_t state = {};
  while (true) {
    if (!WaitForInput()) {
      errno = EINTR;
      return -1;
    }
    char byte = 0;
    const ssize_t n = read(STDIN_FILENO, &byte, 1);
    if (n <= 0) return static_cast<int>(n);
    switch (std::mbrtowc(out, &byte, 1, &state)) {
      case static_cast<size_t>(-2):
        continue;  // more bytes of it
      case static_cast<size_t>(-1):
        state = {};  // no character: left out
        continue;
      default:
        return 1;
    }
  }
}

class PlainReader final : public LineReader {
 public:
  ~PlainReader() override { std::free(buffer_); }
  End Read(const std::string& prompt, std::string& line) override {
    if (!isatty(STDIN_FILENO) || !OpenInterruptPipe()) return Next(line);
    return WithInterrupts([&] {
      std::fputs(prompt.c_str(), stderr);
      // The terminal gives a line when it is whole, and drops at an interrupt what there is of it.
      const End end = WaitForInput() ? Next(line) : End::kInterrupted;
      if (end != End::kLine) std::fputs("\n", stderr);
      return end;
    });
  }

 private:
  End Next(std::string& line) {
    ssize_t bytes = getline(&buffer_, &size_, stdin);
    if (bytes < 0) return End::kNoMore;
    if (buffer_[bytes - 1] == '\n') --bytes;
    if (bytes > 0 && buffer_[bytes - 1] == '\r') --bytes;
    line.assign(buffer_, static_cast<size_t>(bytes));
    return End::kLine;
  }

  char* buffer_ = nullptr;
  size_t size_ = 0;
};

class EditingReader final : public LineReader {
 public:
  EditingReader() : line_(el_init("omni", stdin, stdout, stderr)), history_(history_init()) {
    if (line_ == nullptr || history_ == nullptr) return;
    if (!OpenInterruptPipe()) return;
    el_set(line_, EL_CLIENTDATA, this);
    el_set(line_, EL_PROMPT, &Prompt);
    el_set(line_, EL_EDITOR, "emacs");
    el_set(line_, EL_SIGNAL, 0);
    el_set(line_, EL_GETCFN, &NextCharacter);
    HistEvent event;
    history(history_, &event, H_SETSIZE, 1000);
    history(history_, &event, H_SETUNIQUE, 1);
    el_set(line_, EL_HIST, history, history_);
  }
  ~EditingReader() override {
    if (history_ != nullptr) history_end(history_);
    if (line_ != nullptr) el_end(line_);
  }
  bool good() const { return line_ != nullptr && history_ != nullptr && interrupt_pipe[0] >= 0; }

  End Read(const std::string& prompt, std::string& line) override {
    return WithInterrupts([&] { return Edit(prompt, line); });
  }

 private:
  End Edit(const std::string& prompt, std::string& line) {
    prompt_ = prompt;
    int bytes = 0;
    // Before the prompt is shown: what is typed from then on is this line's, and nothing else echoes it.
    el_set(line_, EL_PREP_TERM, 1);
    errno = 0;
    const char* typed = el_gets(line_, &bytes);
    if (typed == nullptr || bytes <= 0) {
      const bool interrupted = bytes < 0 && errno == EINTR;
      std::fputs("\n", stdout);
      std::fflush(stdout);
      if (!interrupted) return End::kNoMore;
      el_reset(line_);
      return End::kInterrupted;
    }
    line.assign(typed, static_cast<size_t>(bytes));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) history(history_, &event, H_ENTER, line.c_str());
    return End::kLine;
  }
  static char* Prompt(EditLine* line) {
    EditingReader* self = nullptr;
    el_get(line, EL_CLIENTDATA, &self);
    return self->prompt_.data();
  }

  EditLine* const line_;
  History* const history_;
  std::string prompt_;
};

}  // namespace

std::unique_ptr<LineReader> MakeLineReader() {
  const char* term = std::getenv("TERM");
  const bool edits = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term != nullptr && *term != '\0' &&
                     std::strcmp(term, "dumb") != 0;
  if (edits) {
    // The library asks the locale how characters are written.
    std::setlocale(LC_CTYPE, "");
    if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
    auto reader = std::make_unique<EditingReader>();
    if (reader->good()) return reader;
  }
  return std::make_unique<PlainReader>();
}

}  // namespace omni::cli
