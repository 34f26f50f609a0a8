// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace ublkd::ctl {

enum class Colour { kNone, kGreen, kYellow, kRed };

/// One piece of text in a table. Control characters are shown as \xNN, so that a name from a server
/// cannot steer a terminal.
struct Cell {
  Cell(const std::string& cell_text, Colour cell_colour = Colour::kNone);  // NOLINT: text is a cell
  Cell(const char* cell_text) : Cell(std::string(cell_text)) {}            // NOLINT: text is a cell

  std::string text;
  Colour colour;
};

/// Columns under their names, two spaces apart; numbers to the right, words to the left.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string name;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// As many cells as there are columns.
  void AddRow(std::vector<Cell> row) { rows_.push_back(std::move(row)); }
  void Print(std::ostream& out, bool colours) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

/// One thing in detail: a name and a value a line.
class Details {
 public:
  void Add(std::string name, Cell value) { rows_.emplace_back(std::move(name), std::move(value)); }
  void Print(std::ostream& out, bool colours) const;

 private:
  std::vector<std::pair<std::string, Cell>> rows_;
};

/// True when stdout is a terminal that takes colours and NO_COLOR is not set.
bool StdoutTakesColours();

}  // namespace ublkd::ctl
