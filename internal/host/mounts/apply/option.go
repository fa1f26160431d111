package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxOptions is what a mount has room for, and more than anybody writes.
const maxOptions = 1024

// always are the options that every mount has: what is on a disk must make
// nobody root, and a disk that is not there must not hold up the boot. They come
// last, and so none before them undoes them.
const always = "nosuid,nodev,nofail"

// dropped are options that say what holds anyway.
func dropped() []string {
	return []string{"", "defaults", "nofail", "auto", "nouser", "nosuid", "nodev"}
}

// refusals says why an option is not taken.
func refusals() map[string]string {
	const (
		rights = "what is on a disk must not give rights on the device"
		kind   = "only file systems of block devices are mounted"
		whose  = "users mount nothing here"
		when   = "when it is mounted is decided by the configuration"
		others = "it would reach beyond the file system"
	)
	return map[string]string{
		"suid": rights, "dev": rights,
		"bind": kind, "rbind": kind, "move": kind, "loop": kind, "offset": kind, "sizelimit": kind, "encryption": kind, "remount": kind,
		"user": whose, "users": whose, "owner": whose, "group": whose,
		"noauto": when, "fail": when, "_netdev": when, "comment": when,
		"shared": others, "private": others, "slave": others, "unbindable": others,
		"rshared": others, "rprivate": others, "rslave": others, "runbindable": others,
		"journal_dev": others, "journal_path": others, "logdev": others, "rtdev": others, "device": others,
		"lowerdir": others, "upperdir": others, "workdir": others, "helper": others, "uhelper": others,
	}
}

// checkOptions returns the options that the file system is mounted with, or
// what is wrong with those that are asked for.
func checkOptions(text string) (string, error) {
	if len(text) > maxOptions {
		return "", fmt.Errorf("they have more than %d bytes", maxOptions)
	}
	var out []string
	for option := range strings.SplitSeq(text, ",") {
		option = strings.Trim(option, " ")
		key, value, _ := strings.Cut(option, "=")
		if slices.Contains(dropped(), option) {
			continue
		}
		if err := checkOption(key, value); err != nil {
			return "", fmt.Errorf("%.40q: %w", option, err)
		}
		if !slices.Contains(out, option) {
			out = append(out, option)
		}
	}
	return strings.Join(append(out, always), ","), nil
}

func checkOption(key, value string) error {
	switch why := refusals()[strings.ToLower(key)]; {
	case why != "":
		return errors.New(why)
	case strings.HasPrefix(strings.ToLower(key), "x-"), strings.HasPrefix(key, "verity."):
		return errors.New("options for programs are not passed on, only those for the file system")
	case key == "" || strings.Trim(key, lower+upper+digits+"_-") != "" || !strings.Contains(lower+upper+digits, key[:1]):
		return errors.New("it is not the name of an option")
	case strings.Trim(value, lower+upper+digits+"_-.:/@+") != "":
		return errors.New("its value may hold letters, digits and any of _-.:/@+")
	case key == "errors" && value == "panic":
		return errors.New("an error on a disk must not stop the device")
	}
	return nil
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// readOnly reports whether options of a mount or of a file system keep it from
// being written. The last of two that contradict each other holds.
func readOnly(options string) bool {
	only := false
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "ro", "emergency_ro", "shutdown":
			only = true
		case "rw":
			only = false
		}
	}
	return only
}
