"""Messages as text: templates and their sandbox, content, Markdown, the segments of an SMS."""
