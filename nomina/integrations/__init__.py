"""nomina inside tools that people already have: one file a tool, none imported unless asked for."""
