#include "tools/text_table.hpp"

#include <algorithm>
#include <utility>

namespace convt::tools {

std::size_t text_width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;  // continuation bytes take no place
  }));
}

TextTable::TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (Column& column : columns_) column.width = std::max(column.width, text_width(column.title));
}

void TextTable::add(std::vector<std::string> row) {
  for (std::size_t i = 0; i < row.size() && i < columns_.size(); ++i) {
    columns_[i].width = std::max(columns_[i].width, text_width(row[i]));
  }
  rows_.push_back(std::move(row));
}

std::string TextTable::title_line() const {
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  return line(titles);
}

std::string TextTable::line(const std::vector<std::string>& row) const {
  std::string text;
  for (std::size_t i = 0; i < row.size() && i < columns_.size(); ++i) {
    const std::size_t width = text_width(row[i]);
    const std::string gap(columns_[i].width - std::min(width, columns_[i].width), ' ');
    if (i > 0) text += "  ";
    text += columns_[i].align == Align::left ? row[i] + gap : gap + row[i];
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return text + "\n";
}

std::string TextTable::to_text() const {
  std::string text = title_line();
  for (const std::vector<std::string>& row : rows_) text += line(row);
  return text;
}

}  // namespace convt::tools
