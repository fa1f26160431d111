// Program app is what test containers run: a small static program that writes
// files, serves them, sleeps or exits, as its arguments say.
//
//	app serve [port]                    serve HTTP (default, port 8080)
//	app write <path> <text> [interval]  write a file, once or again and again
//	app put <path> <text>               write a file and end
//	app check <path>                    end with status 0 if there is a file, 1 if not
//	app exit <code> [after]             exit with that code
//	app sleep                           do nothing until SIGTERM
//
// Without arguments the environment variable APP_ARGS is used, split at blanks.
// SIGTERM and SIGINT end it at once with status 0; with LINGER in the
// environment, such as 3s, only after that time, and it leaves /export/lingered.
//
// Called sh, curl or nc it does what Podman's health checks want of these.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
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
	if tool, ok := tools()[filepath.Base(os.Args[0])]; ok {
		os.Exit(tool(args))
	}
	if len(args) == 0 {
		args = strings.Fields(os.Getenv("APP_ARGS"))
	}
	go func() { ended <- run(args) }()
	select {
	case s := <-stop:
		fmt.Println("stopped by", s)
		linger(os.Getenv("LINGER"))
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
	case "put":
		return put(arg(0, ""), arg(1, ""))
	case "check":
		if _, err := os.Stat(arg(0, "")); err != nil {
			os.Exit(1)
		}
		return nil
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
//	/read?path=P             any file or device, up to 64 KiB
//	/list?path=P             the names in any folder, in lines
//	/stat?path=P             mode and owner of any file
//	/touch?path=P&text=T     writes any file, and answers ok or why not
//	/args                    the arguments, in lines
//	/host                    the host name, the working folder
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
	look(mux)
	fmt.Println("serving on", port, "version", os.Getenv("VERSION"))
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if err := server.ListenAndServe(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// below keeps a requested path inside the exported folder.
func below(path string) string { return filepath.Join(export, filepath.Clean("/"+path)) }

// look adds what shows the container from inside.
func look(mux *http.ServeMux) {
	answer := func(path string, f func(r *http.Request) (string, error)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			text, err := f(r)
			if err != nil {
				text = "error: " + err.Error()
			}
			_, _ = io.WriteString(w, text)
		})
	}
	answer("/read", func(r *http.Request) (string, error) {
		f, err := os.Open(r.FormValue("path"))
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		data, err := io.ReadAll(io.LimitReader(f, 64<<10))
		return string(data), err
	})
	answer("/list", func(r *http.Request) (string, error) {
		entries, err := os.ReadDir(r.FormValue("path"))
		names := make([]string, 0, len(entries))
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, "\n"), err
	})
	answer("/stat", func(r *http.Request) (string, error) {
		info, err := os.Stat(r.FormValue("path"))
		if err != nil {
			return "", err
		}
		owner := info.Sys().(*syscall.Stat_t)
		return fmt.Sprintf("%s %d:%d", info.Mode(), owner.Uid, owner.Gid), nil
	})
	answer("/touch", func(r *http.Request) (string, error) {
		return "ok", os.WriteFile(r.FormValue("path"), []byte(r.FormValue("text")), 0o644)
	})
	answer("/args", func(*http.Request) (string, error) { return strings.Join(os.Args, "\n"), nil })
	answer("/host", func(*http.Request) (string, error) {
		dir, _ := os.Getwd()
		name, err := os.Hostname()
		return name + " " + dir, err
	})
}

func linger(wait string) {
	d, err := time.ParseDuration(wait)
	if err != nil {
		return
	}
	time.Sleep(d)
	_ = put(filepath.Join(export, "lingered"), wait)
}

// tools are the programs that it stands in for.
func tools() map[string]func(args []string) int {
	return map[string]func(args []string) int{"sh": shell, "curl": fetch, "nc": connect}
}

// shell runs sh -c "command arguments || exit 1".
func shell(args []string) int {
	command, _, _ := strings.Cut(strings.Join(args[1:], " "), " || ")
	words := strings.Fields(command)
	if len(words) == 0 || exec.Command(words[0], words[1:]...).Run() != nil { //nolint:gosec // a shell runs what it is told
		return 1
	}
	return 0
}

// fetch runs curl -f URL.
func fetch(args []string) int {
	response, err := http.Get(args[len(args)-1]) //nolint:gosec // fetching what it is told is its purpose
	if err != nil {
		return 7
	}
	_ = response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		return 22
	}
	return 0
}

// connect runs nc -z -v HOST PORT.
func connect(args []string) int {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(args[len(args)-2], args[len(args)-1]), time.Second) //nolint:gosec // so is this
	if err != nil {
		return 1
	}
	_ = c.Close()
	return 0
}
