//! A document for people as plain blocks, written twice from one source: as a page of HTML and as typst, which makes the PDF.
//!
//! All text is data: it reaches HTML only through `html::escaped` and typst only as a string literal, so that a principal's name
//! is a name and never markup. Characters that steer a reader's eyes (controls, marks that turn the direction) are
//! shown as escapes first.

mod html;
mod typst;

/// How something is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Something to explain.
    Bad,
    /// Not known.
    Open,
    /// Neither.
    Plain,
}

/// A number with what it counts.
#[derive(Clone, Debug)]
pub struct Tile {
    /// The number.
    pub value: String,
    /// What it counts.
    pub label: String,
    /// How it is to be taken.
    pub tone: Tone,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its text.
    pub text: String,
    /// How it is to be taken.
    pub tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// A piece of a document.
#[derive(Clone, Debug)]
pub enum Block {
    /// A heading of a section.
    Heading(String),
    /// A heading inside one.
    Subheading(String),
    /// Running text.
    Paragraph(String),
    /// Text that must not be missed.
    Notice(String, Tone),
    /// Numbers side by side.
    Tiles(Vec<Tile>),
    /// Points.
    List(Vec<String>),
    /// Rows under a head; widths are parts of the page.
    Table {
        /// Names of the columns.
        head: Vec<String>,
        /// Relative widths of the columns.
        widths: Vec<u32>,
        /// The rows.
        rows: Vec<Vec<Cell>>,
    },
    /// The next block starts a page.
    NewPage,
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// A line under it.
    pub subtitle: String,
    /// At the foot of each page.
    pub footer: String,
    /// The pieces in order.
    pub blocks: Vec<Block>,
}

impl Document {
    /// A self-contained page: no scripts, no links, nothing fetched.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Source for the typst compiler; reads no other file.
    pub fn typst(&self) -> String {
        typst::source(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a principal, a title or a reason could be called.
    const HOSTILE: [&str; 6] = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "#read(\"/etc/passwd\")",
        "\\\" ) #panic() \\",
        "$x$ *bold* _it_ @ref <label> // comment `raw` ~",
        "turned \u{202e}gnp.exe and \u{7} bell\nline",
    ];

    fn document(text: &str) -> Document {
        let cell = Cell { text: text.to_owned(), tone: Tone::Bad };
        let text = text.to_owned();
        Document {
            title: text.clone(),
            subtitle: text.clone(),
            footer: text.clone(),
            blocks: vec![
                Block::Heading(text.clone()),
                Block::Subheading(text.clone()),
                Block::Paragraph(text.clone()),
                Block::Notice(text.clone(), Tone::Open),
                Block::Tiles(vec![Tile { value: text.clone(), label: text.clone(), tone: Tone::Good }]),
                Block::List(vec![text.clone()]),
                Block::Table { head: vec![text], widths: vec![1], rows: vec![vec![cell]] },
                Block::NewPage,
            ],
        }
    }

    #[test]
    fn text_never_becomes_markup() {
        let plain = document("x").html();
        let tags = |page: &str| page.matches('<').count();
        for text in HOSTILE {
            let page = document(text).html();
            assert_eq!(tags(&page), tags(&plain), "{text}: as many tags as with a harmless text");
            assert!(
                !page.contains("<script")
                    && !page.contains("<img")
                    && !page.contains('\u{202e}')
                    && !page.contains('\u{7}')
            );
        }
    }

    #[test]
    fn text_is_one_string_literal_in_typst() {
        // Outside of string literals nothing differs from the document of a harmless text.
        let outside = |source: &str| {
            let (mut kept, mut inside, mut escaped) = (String::new(), false, false);
            for char in source.chars() {
                match (inside, escaped, char) {
                    (true, true, _) => escaped = false,
                    (true, false, '\\') => escaped = true,
                    (_, _, '"') => inside = !inside,
                    (true, ..) => {}
                    (false, ..) => kept.push(char),
                }
            }
            assert!(!inside, "a literal stays open");
            kept
        };
        let plain = outside(&document("x").typst());
        for text in HOSTILE {
            assert_eq!(outside(&document(text).typst()), plain, "{text}");
        }
    }

    #[test]
    fn a_page_fetches_nothing() {
        let page = document("x").html();
        assert!(page.contains("default-src 'none'"));
        for word in ["http:", "https:", "src=", "href=", "url(", "@import", "<link", "<script"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
