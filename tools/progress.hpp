// Progress: what is going on, on the terminal's last line. Nothing is written where stderr is a
// file.
#pragma once

#include <string_view>

namespace convt::tools {

class Progress {
 public:
  Progress();
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::string_view text);
  void clear();  ///< before other output

 private:
  bool terminal_;
  bool shown_ = false;
};

}  // namespace convt::tools
