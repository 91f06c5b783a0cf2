//! The page. One file, its style inside, made to be printed on A4.

use super::{Block, Cell, Document, Tile, Tone};
use crate::query::printable;
use std::fmt::Write as _;

const STYLE: &str = "
@page { size: A4; margin: 18mm 16mm 20mm }
* { box-sizing: border-box }
body { font: 10.5pt/1.45 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif; color: #1c2530; margin: 0 auto; max-width: 186mm; padding: 10mm 4mm }
header { border-bottom: 2pt solid #1f3a5f; padding-bottom: 3mm; margin-bottom: 5mm }
h1 { font-size: 21pt; line-height: 1.15; margin: 0; color: #1f3a5f }
header p { margin: 1mm 0 0; color: #55606e; font-size: 11pt }
h2 { font-size: 13pt; color: #1f3a5f; margin: 7mm 0 2mm; break-after: avoid }
h3 { font-size: 11pt; margin: 4mm 0 1mm; break-after: avoid }
p { margin: 0 0 2.5mm }
ul { margin: 0 0 3mm; padding-left: 5mm }
li { margin-bottom: 1.2mm; overflow-wrap: anywhere }
.tiles { display: flex; gap: 4mm; margin: 4mm 0 5mm }
.tile { flex: 1; border: 0.6pt solid #c9d1da; border-left-width: 4pt; border-radius: 2pt; padding: 2.5mm 3mm }
.tile b { display: block; font-size: 19pt; line-height: 1.1 }
.tile span { color: #55606e; font-size: 9.5pt }
.good { border-color: #2e7d4f } .bad { border-color: #b3261e } .open { border-color: #a86b00 }
.tile.good b, td .good { color: #22663f } .tile.bad b, td .bad { color: #b3261e } .tile.open b, td .open { color: #8a5700 }
td .good, td .bad, td .open { font-weight: 600 }
.notice { border-left: 4pt solid #c9d1da; background: #f4f6f8; padding: 2.5mm 3.5mm; margin: 0 0 3mm; overflow-wrap: anywhere }
.notice.good { border-color: #2e7d4f } .notice.bad { border-color: #b3261e } .notice.open { border-color: #a86b00 }
table { border-collapse: collapse; width: 100%; margin: 0 0 4mm; font-size: 9pt; table-layout: fixed }
th { text-align: left; background: #eef2f6; border-bottom: 1pt solid #9aa7b5 }
th, td { padding: 1.3mm 2mm; vertical-align: top; overflow-wrap: anywhere }
td { border-bottom: 0.5pt solid #d5dbe2 }
tr { break-inside: avoid }
thead { display: table-header-group }
footer { border-top: 0.6pt solid #c9d1da; margin-top: 8mm; padding-top: 2mm; color: #55606e; font-size: 8.5pt; overflow-wrap: anywhere }
.newpage { break-before: page }
@media print { body { padding: 0; max-width: none } }
";

pub(super) fn page(document: &Document) -> String {
    let Document { title, subtitle, footer, blocks } = document;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{title}</h1><p>{subtitle}</p></header>\n",
        title = escaped(title),
        subtitle = escaped(subtitle),
    );
    blocks.iter().for_each(|block| put(&mut page, block));
    let _ = write!(page, "<footer>{}</footer>\n</body>\n</html>\n", escaped(footer));
    page
}

fn put(page: &mut String, block: &Block) {
    // Writing to a String cannot fail.
    let _ = match block {
        Block::Heading(text) => writeln!(page, "<h2>{}</h2>", escaped(text)),
        Block::Subheading(text) => writeln!(page, "<h3>{}</h3>", escaped(text)),
        Block::Paragraph(text) => writeln!(page, "<p>{}</p>", escaped(text)),
        Block::Notice(text, tone) => writeln!(page, "<div class=\"notice {}\">{}</div>", class(*tone), escaped(text)),
        Block::Tiles(tiles) => {
            writeln!(page, "<div class=\"tiles\">{}</div>", tiles.iter().map(tile).collect::<String>())
        }
        Block::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>", escaped(item))).collect();
            writeln!(page, "<ul>{items}</ul>")
        }
        Block::Table { head, widths, rows } => {
            let sum: u32 = widths.iter().sum::<u32>().max(1);
            let columns: String =
                widths.iter().map(|width| format!("<col style=\"width: {}%\">", width * 100 / sum)).collect();
            let head: String = head.iter().map(|name| format!("<th>{}</th>", escaped(name))).collect();
            let rows: String =
                rows.iter().map(|row| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>())).collect();
            writeln!(
                page,
                "<table><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"
            )
        }
        Block::NewPage => writeln!(page, "<div class=\"newpage\"></div>"),
    };
}

fn tile(Tile { value, label, tone }: &Tile) -> String {
    format!("<div class=\"tile {}\"><b>{}</b><span>{}</span></div>", class(*tone), escaped(value), escaped(label))
}

fn cell(Cell { text, tone }: &Cell) -> String {
    format!("<td><span class=\"{}\">{}</span></td>", class(*tone), escaped(text))
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Open => "open",
        Tone::Plain => "plain",
    }
}

/// The one way of text into the page.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in printable(text).chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            char => safe.push(char),
        }
    }
    safe
}
