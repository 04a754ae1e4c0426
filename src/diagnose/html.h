// A report as one self-contained page for a browser: no network, no fonts or scripts from elsewhere.
#pragma once

#include <string>

#include "diagnose/report.h"

namespace plumb::diagnose {

// HTML in UTF-8. The element with the id "report" holds to_json(report), in ASCII and without '<', '>' and '&', so that no
// text of a prompt, a name or an engine can end it; the page's script makes text nodes of it. Bytes that are not UTF-8
// become U+FFFD. The static part is report.html.
std::string to_html(const Report& report);

}  // namespace plumb::diagnose
