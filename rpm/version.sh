#!/usr/bin/env bash
# Prints the version of the package for a version of the program, which git describes: rpm allows no dash in it, and
# the package of a later commit has to sort after that of an earlier one.
#
#   1.2.3               1.2.3
#   1.2.3-rc1           1.2.3~rc1            sorts before 1.2.3
#   1.2.3-4-gabcdef0    1.2.3^4.gabcdef0     sorts after 1.2.3
#   abcdef0             0.0.0^N.gabcdef0     no tag yet; N is the number of commits, or 0 where there is no git
set -euo pipefail

version=${1:?version.sh needs the version of the program}
dirty=
if [[ $version == *-dirty ]]; then
	version=${version%-dirty} dirty=.dirty
fi
commits=
if [[ $version =~ ^(.+)-([0-9]+)-g([0-9a-f]+)$ ]]; then
	version=${BASH_REMATCH[1]} commits=${BASH_REMATCH[2]}.g${BASH_REMATCH[3]}
elif [[ $version =~ ^[0-9a-f]{7,40}$ && $version != *.* ]]; then
	commits=$(git -c safe.directory='*' rev-list --count "$version" 2>/dev/null || echo 0).g$version
	version=0.0.0
fi
version=${version/-/\~}
version=${version//-/.}
if [[ ! $version =~ ^[0-9]+(\.[0-9]+)*(~[A-Za-z0-9.+_]+)?$ ]]; then
	echo "version.sh: \"$1\" is no version: want one such as 1.2.3, 1.2.3-rc1 or what git describe prints" >&2
	exit 1
fi
[ -z "$dirty" ] || [ -n "$commits" ] || commits=0
echo "$version${commits:+^$commits}$dirty"
