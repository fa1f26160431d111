package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminalSize returns what tells the columns and lines of the terminal that w
// is; nil: it is none on which a picture can be drawn.
func terminalSize(w io.Writer, env func(string) string) func() (width, height int) {
	file, ok := w.(*os.File)
	if !ok || env("TERM") == "" || env("TERM") == "dumb" {
		return nil
	}
	if _, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err != nil {
		return nil
	}
	return func() (int, int) {
		size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
		if err != nil || size.Col == 0 || size.Row == 0 {
			return 80, 24 // a serial line knows no size
		}
		return int(size.Col), int(size.Row)
	}
}

// colored reports whether the user wants colours on a terminal, as no-color.org
// has it.
func colored(env func(string) string) bool { return env("NO_COLOR") == "" }
