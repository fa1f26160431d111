// Program app is what test containers run: a small static program that writes
// files, serves them, sleeps or exits, as its arguments say.
//
//	app serve [port]                    serve HTTP (default, port 8080)
//	app write <path> <text> [interval]  write a file, once or again and again
//	app exit <code> [after]             exit with that code
//	app sleep                           do nothing until SIGTERM
//
// Without arguments the environment variable APP_ARGS is used, split at blanks.
// SIGTERM and SIGINT end it at once with status 0.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// export is the folder that a workload shares with the device.
const export = "/export"

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	args := os.Args[1:]
	if len(args) == 0 {
		args = strings.Fields(os.Getenv("APP_ARGS"))
	}
	go func() { ended <- run(args) }()
	select {
	case s := <-stop:
		fmt.Println("stopped by", s)
	case err := <-ended:
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
}

// run does what args say and returns when that has come to an end.
func run(args []string) error {
	verb, rest := "serve", []string(nil)
	if len(args) > 0 {
		verb, rest = args[0], args[1:]
	}
	arg := func(i int, otherwise string) string {
		if i < len(rest) {
			return rest[i]
		}
		return otherwise
	}
	switch verb {
	case "serve":
		return serve(arg(0, "8080"))
	case "write":
		return write(arg(0, ""), arg(1, ""), arg(2, "0s"))
	case "exit":
		return exit(arg(0, "0"), arg(1, "0s"))
	case "sleep":
		fmt.Println("sleeping, version", os.Getenv("VERSION"))
		select {}
	default:
		return fmt.Errorf("unknown command %q", verb)
	}
}

// write puts text and a newline into path, and again after each interval. The
// word {n} in the text is replaced by the count of the writes so far.
func write(path, text, interval string) error {
	every, err := time.ParseDuration(interval)
	if err != nil {
		return fmt.Errorf("parse interval: %w", err)
	}
	for n := 1; ; n++ {
		if err := put(path, strings.ReplaceAll(text, "{n}", strconv.Itoa(n))+"\n"); err != nil {
			return err
		}
		fmt.Println("wrote", path, n)
		if every <= 0 {
			select {}
		}
		time.Sleep(every)
	}
}

func put(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return nil
}

func exit(code, after string) error {
	wait, err := time.ParseDuration(after)
	if err != nil {
		return fmt.Errorf("parse delay: %w", err)
	}
	status, err := strconv.Atoi(code)
	if err != nil {
		return fmt.Errorf("parse code: %w", err)
	}
	time.Sleep(wait)
	fmt.Println("exiting with", status)
	os.Exit(status)
	return nil
}

// serve answers
//
//	/version                 the image's version
//	/env?name=N              an environment variable, 404 when it is not set
//	/file?path=P             a file below /export
//	/put?path=P&text=T       writes one
func serve(port string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, os.Getenv("VERSION"))
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		value, ok := os.LookupEnv(r.FormValue("name"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, value)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(below(r.FormValue("path")))
		if errors.Is(err, os.ErrNotExist) {
			http.NotFound(w, r)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("/put", func(w http.ResponseWriter, r *http.Request) {
		if err := put(below(r.FormValue("path")), r.FormValue("text")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	fmt.Println("serving on", port, "version", os.Getenv("VERSION"))
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if err := server.ListenAndServe(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// below keeps a requested path inside the exported folder.
func below(path string) string { return filepath.Join(export, filepath.Clean("/"+path)) }
