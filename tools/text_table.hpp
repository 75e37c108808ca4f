// TextTable: rows of text, aligned in columns.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace convt::tools {

class TextTable {
 public:
  enum class Align { left, right };

  struct Column {
    std::string title;
    Align align = Align::right;
    std::size_t width = 0;  ///< at least so many characters; for rows printed as they come
  };

  explicit TextTable(std::vector<Column> columns);

  void add(std::vector<std::string> row);

  /// Title line and all rows, each line ended.
  [[nodiscard]] std::string to_text() const;

  /// One line in the columns' given widths, for tables that are printed while they grow.
  [[nodiscard]] std::string title_line() const;
  [[nodiscard]] std::string line(const std::vector<std::string>& row) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// Characters of UTF-8 text, for alignment.
std::size_t text_width(const std::string& text);

}  // namespace convt::tools
