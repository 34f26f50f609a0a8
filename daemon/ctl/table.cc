// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/table.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace ublkd::ctl {
namespace {

constexpr absl::string_view kGap = "  ";
constexpr char kNoColour[] = "\033[0m";

const char* StartOf(Colour colour) {
  switch (colour) {
    case Colour::kGreen:
      return "\033[32m";
    case Colour::kYellow:
      return "\033[33m";
    case Colour::kRed:
      return "\033[31m";
    case Colour::kNone:
      break;
  }
  return "";
}

std::string WithoutControlCharacters(const std::string& text) {
  constexpr unsigned char kDelete = 0x7f;
  std::string shown;
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte < ' ' || byte == kDelete) {
      shown += absl::StrFormat("\\x%02x", byte);
    } else {
      shown += character;
    }
  }
  return shown;
}

// Characters, not bytes: every UTF-8 byte that does not continue a character.
size_t Width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char character) {
    return (static_cast<unsigned char>(character) & 0xc0) != 0x80;
  }));
}

void PrintCell(std::ostream& out, const Cell& cell, bool colours) {
  const bool coloured = colours && cell.colour != Colour::kNone;
  if (coloured) out << StartOf(cell.colour);
  out << cell.text;
  if (coloured) out << kNoColour;
}

}  // namespace

Cell::Cell(const std::string& cell_text, Colour cell_colour)
    : text(WithoutControlCharacters(cell_text)), colour(cell_colour) {}

void Table::Print(std::ostream& out, bool colours) const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    size_t width = Width(columns_[i].name);
    for (const std::vector<Cell>& row : rows_) width = std::max(width, Width(row[i].text));
    widths.push_back(width);
  }
  const auto print_row = [&](const std::vector<Cell>& row) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i].text), ' ');
      const bool last = i + 1 == row.size();
      if (columns_[i].align == Align::kRight) out << padding;
      PrintCell(out, row[i], colours);
      // No blanks at the end of a line.
      if (columns_[i].align == Align::kLeft && !last) out << padding;
      out << (last ? "\n" : kGap);
    }
  };
  std::vector<Cell> names;
  for (const Column& column : columns_) names.emplace_back(column.name);
  print_row(names);
  for (const std::vector<Cell>& row : rows_) print_row(row);
}

void Details::Print(std::ostream& out, bool colours) const {
  size_t width = 0;
  for (const auto& [name, value] : rows_) width = std::max(width, Width(name));
  for (const auto& [name, value] : rows_) {
    out << name << ":" << std::string(width - Width(name), ' ') << kGap;
    PrintCell(out, value, colours);
    out << "\n";
  }
}

bool StdoutTakesColours() {
  if (isatty(STDOUT_FILENO) == 0) return false;
  const char* no_colour = std::getenv("NO_COLOR");
  if (no_colour != nullptr && *no_colour != '\0') return false;
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && *terminal != '\0' && absl::string_view(terminal) != "dumb";
}

}  // namespace ublkd::ctl
