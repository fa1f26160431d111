package scrape_test

// right is how many pages of each format are right, at least.
const right = 9

// Pages that both formats' parsers are tried with: the first ones are right.
var (
	classicPages = []string{
		"",
		"a 1\n",
		"a 1",
		"a{} 1\n",
		"a{b=\"c\"} 1\n",
		"a{b=\"c\",} 1 1000\n",
		"\n\n  \t\n# HELP a what it is\n# TYPE a counter\n  a  { b = \"c\" , d = \"e\" }  1.5e3\t1000 \n# anything\n#\n",
		"a{b=\"1\\\"2\\\\3\\n4\\x\"} NaN\nb +Inf\nb:c -Inf 5\n_ 0\n",
		"h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.25\nh_count 2\ns{quantile=\"0.5\"} 1\n",
		"a{b=\"ünï\"} 1\na{b=\"\",c=\"d\"} 2\na -0\na .5\na 1.\n",
		"a{__name__=\"b\"} 1\n", "a{b=\"1\",b=\"2\"} 1\n",
		"a\n", "a \n", "a b\n", "a 1 b\n", "a 1 1.5\n", "a 1 1 1\n", "1a 1\n", "a{b} 1\n", "a{b=} 1\n", "a{b=c} 1\n",
		"a{b=\"c} 1\n", "a{b=\"c\" d=\"e\"} 1\n", "a{,} 1\n", "a{b=\"c\",,} 1\n", "a{1b=\"c\"} 1\n", "a{b:c=\"d\"} 1\n", "a{b=\"c\" 1\n",
		"a 0x10\n", "a 1_0\n", "a 0x1p-2\n", "a 1e400\n", "a inf\n", "a infinity\n", "a nan\n", "{a=\"b\"} 1\n", "a{b=\"\xff\"} 1\n",
		"a{b=\"c\"}1\n", "a 1 # {b=\"c\"} 1\n", "\xff 1\n", "a\x00 1\n", "a 1\r\n", "{\"a b\",c=\"d\"} 1\n", "a 1 9999999999999999999\n", "a 1 +5\n",
	}
	openPages = []string{
		"# EOF\n",
		"# EOF",
		"a 1\n# EOF\n",
		"# HELP a what\\nit is\n# TYPE a counter\n# UNIT a seconds\na_total{b=\"c\"} 1.5 1000.25\na_created 5\n# EOF\n",
		"a_total 1 # {trace_id=\"x\"} 0.5\n# EOF\n",
		"a_total{b=\"c\"} 1 5 # {trace_id=\"x\",y=\"\"} 0.5 1.5\n# EOF\n",
		"a{b=\"1\\\"2\\\\3\\n4\"} NaN\na +Inf\na -Inf -1.5\na 1e-3 0\n# EOF\n",
		"# TYPE h histogram\nh_bucket{le=\"1.0\"} 1 # {} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\n# TYPE i info\ni_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"x\"} 1\n# EOF\n",
		"a{} 1\n# EOF\n",
		"", "a 1\n", "a 1\n# EOF\na 2\n", "# EOF\n\n", "\n# EOF\n", "a  1\n# EOF\n", "a 1 \n# EOF\n", "a\t1\n# EOF\n", " a 1\n# EOF\n", "# anything\n# EOF\n",
		"#EOF\n", "a{b=\"c\",} 1\n# EOF\n", "a{b=\"c\", d=\"e\"} 1\n# EOF\n", "a{ b=\"c\"} 1\n# EOF\n", "a{b =\"c\"} 1\n# EOF\n", "a {b=\"c\"} 1\n# EOF\n",
		"a 1 x\n# EOF\n", "a 1 1 1\n# EOF\n", "a 1 NaN\n# EOF\n", "a 1 +Inf\n# EOF\n", "a 1 1e30\n# EOF\n", "a 1 #\n# EOF\n", "a 1 # {\n# EOF\n", "a 1 # {} x\n# EOF\n",
		"a 1 # {}\n# EOF\n", "a 1 # {} 1 x\n# EOF\n", "a 1 # {} 1 1 1\n# EOF\n", "a 1 # {b=\"c\"} 1 1.5\n# EOF\n", "a{b=\"\\x\"} 1\n# EOF\n", "a 1# EOF\n", "# TYPE a nonsense\n# EOF\n",
		"# TYPE\n# EOF\n", "# HELP a\n# EOF\n", "# UNIT a s\n# EOF\n", "a{b=\"c\"}1\n# EOF\n", "{\"a b\"} 1\n# EOF\n", "a 1 1 # {b=\"c\"} 1\n# EOF", "# EOF ", "a 0x1\n# EOF\n", "a{b=\"c\"\n# EOF\n",
	}
)
