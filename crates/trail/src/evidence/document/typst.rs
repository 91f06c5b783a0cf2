//! The typst source. Only functions of typst's own library, no packages, no files.

use super::{Block, Cell, Document, Tile, Tone};
use crate::query::printable;
use std::fmt::Write as _;

/// Page, fonts and the shapes of blocks. typst brings Libertinus Serif and New Computer Modern along; others are taken if there.
const PREAMBLE: &str = r##"#set text(font: ("Liberation Sans", "Libertinus Serif"), size: 9.5pt, fill: rgb("#1c2530"), lang: "en")
#set par(leading: 0.6em, spacing: 0.9em)
#let ink = rgb("#1f3a5f")
#let grey = rgb("#55606e")
#let tones = (good: rgb("#22663f"), bad: rgb("#b3261e"), open: rgb("#8a5700"), plain: rgb("#c9d1da"))
#let section(t) = block(above: 1.6em, below: 0.8em, sticky: true, text(size: 13pt, weight: "bold", fill: ink, t))
#let subsection(t) = block(above: 1.2em, below: 0.6em, sticky: true, text(size: 10.5pt, weight: "bold", t))
#let notice(tone, t) = block(width: 100%, inset: 8pt, fill: rgb("#f4f6f8"), stroke: (left: 3pt + tones.at(tone)), t)
#let tile(tone, value, label) = block(width: 100%, inset: 8pt, radius: 2pt, stroke: (left: 3pt + tones.at(tone), rest: 0.6pt + rgb("#c9d1da")))[
  #text(size: 18pt, weight: "bold", fill: if tone == "plain" { ink } else { tones.at(tone) }, value)
  #linebreak()
  #text(size: 8.5pt, fill: grey, label)
]
#let said(tone, t) = if tone == "plain" { t } else { text(weight: "bold", fill: tones.at(tone), t) }
#set table(stroke: (x, y) => (bottom: 0.5pt + rgb("#d5dbe2")), fill: (x, y) => if y == 0 { rgb("#eef2f6") }, inset: 5pt)
#show table: set text(size: 8pt)
#show table: set par(leading: 0.5em)
"##;

pub(super) fn source(document: &Document) -> String {
    let Document { title, subtitle, footer, blocks } = document;
    let mut source = format!(
        "#set document(title: {title}, date: none)\n\
         #set page(paper: \"a4\", margin: (x: 16mm, top: 18mm, bottom: 20mm), footer: context [#text(size: 7.5pt, fill: rgb(\"#55606e\"))[#{footer} #h(1fr) #counter(page).display(\"1 / 1\", both: true)]])\n\
         {PREAMBLE}\
         #text(size: 20pt, weight: \"bold\", fill: ink, {title})\n\n#text(size: 10.5pt, fill: grey, {subtitle})\n\n#line(length: 100%, stroke: 1.5pt + ink)\n\n",
        title = literal(title),
        subtitle = literal(subtitle),
        footer = literal(footer),
    );
    blocks.iter().for_each(|block| put(&mut source, block));
    source
}

fn put(source: &mut String, block: &Block) {
    // Writing to a String cannot fail.
    let _ = match block {
        Block::Heading(text) => writeln!(source, "#section({})", literal(text)),
        Block::Subheading(text) => writeln!(source, "#subsection({})", literal(text)),
        Block::Paragraph(text) => writeln!(source, "#par({})", literal(text)),
        Block::Notice(text, tone) => writeln!(source, "#notice(\"{}\", {})", name(*tone), literal(text)),
        Block::Tiles(tiles) => {
            let columns = vec!["1fr"; tiles.len()].join(", ");
            let tiles: String = tiles.iter().map(tile).collect();
            writeln!(source, "#grid(columns: ({columns},), gutter: 8pt, {tiles})")
        }
        Block::List(items) => {
            let items: String = items.iter().map(|item| format!("{}, ", literal(item))).collect();
            writeln!(source, "#list({items})")
        }
        Block::Table { head, widths, rows } => {
            let columns: String = widths.iter().map(|width| format!("{width}fr, ")).collect();
            let head: String = head.iter().map(|name| format!("strong({}), ", literal(name))).collect();
            let rows: String = rows.iter().map(|row| row.iter().map(cell).collect::<String>() + "\n").collect();
            writeln!(source, "#table(columns: ({columns}), table.header({head}),\n{rows})")
        }
        Block::NewPage => writeln!(source, "#pagebreak(weak: true)"),
    };
}

fn tile(Tile { value, label, tone }: &Tile) -> String {
    format!("tile(\"{}\", {}, {}), ", name(*tone), literal(value), literal(label))
}

fn cell(Cell { text, tone }: &Cell) -> String {
    format!("said(\"{}\", {}), ", name(*tone), literal(text))
}

fn name(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Open => "open",
        Tone::Plain => "plain",
    }
}

/// Letters after which a long name may go on in the next line.
const BREAKS: [char; 4] = ['/', ':', '-', '_'];

/// Characters without such a letter after which a name is broken all the same: hashes have none.
const UNBROKEN_MAX: usize = 24;

/// The one way of text into the source: a string literal, whose only active characters are the backslash and the quote.
fn literal(text: &str) -> String {
    let mut safe = String::from("\"");
    let mut unbroken = 0;
    for char in printable(text).chars() {
        if matches!(char, '"' | '\\') {
            safe.push('\\');
        }
        safe.push(char);
        unbroken = if char == ' ' { 0 } else { unbroken + 1 };
        if BREAKS.contains(&char) || unbroken == UNBROKEN_MAX {
            safe.push('\u{200b}');
            unbroken = 0;
        }
    }
    safe.push('"');
    safe
}
