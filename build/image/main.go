package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run writes the archive that the arguments describe.
func run(args []string) error {
	var img image
	var out string
	var created int64
	set := flag.NewFlagSet("image", flag.ContinueOnError)
	set.StringVar(&img.name, "name", "", "repository of the image, with its registry")
	set.StringVar(&img.tag, "tag", "latest", "tag of the image")
	set.StringVar(&img.path, "path", "", "where the program is in the image")
	set.StringVar(&img.title, "title", "", "what the image is, in a few words")
	set.StringVar(&img.source, "source", "", "address of the source")
	set.StringVar(&out, "out", "", "archive to write")
	set.Int64Var(&created, "created", 0, "seconds since 1970 that everything is dated")
	set.Func("program", "architecture=file; once for each architecture", func(text string) error {
		arch, file, ok := strings.Cut(text, "=")
		if !ok || arch == "" || file == "" {
			return errors.New("want architecture=file")
		}
		img.programs = append(img.programs, program{arch: arch, file: file})
		return nil
	})
	if err := set.Parse(args); err != nil {
		return err
	}
	if img.name == "" || !strings.HasPrefix(img.path, "/") || out == "" || len(img.programs) == 0 || set.NArg() > 0 {
		return errors.New("-name, -path, -out and at least one -program are required, and nothing else")
	}
	img.created = time.Unix(created, 0).UTC()
	slices.SortFunc(img.programs, func(a, b program) int { return strings.Compare(a.arch, b.arch) })
	digest, err := img.write(out)
	if err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	fmt.Printf("%s@%s %s\n", img.name, digest, out)
	return nil
}
