"""The words with which servers say what is wrong, for `replies`; addresses are taken out before.

Only words that have been seen in replies or bounces stand here. Where a phrase could be said about
somebody who still reads their mail ("rejected", "denied", "unable to deliver"), it is left out.
"""

from __future__ import annotations

import re
from typing import Final


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(phrases), re.I)


THROTTLING: Final = re.compile(
    r"""rate.?limit | limit.{0,20}rate | \brate\b | throttl | too\ (many|fast|quickly|much\ mail)
      | TSS0?4 | sending\ (limit|quota) | temporarily\ deferred | slow\ down""",
    re.I | re.X,
)

# --- Full ---------------------------------------------------------------------------------------

FULL: Final = re.compile(r"full|quota|over.{0,10}limit|insufficient.{0,20}(mailbox|user)", re.I)
SURELY_FULL: Final = _any(
    r"(mail ?box|mail ?folder|account|inbox).{0,30}\b(full|exceed(ed|s)?\b.{0,30}(limit|size|stor)"
    r"|size limit|storage limit)",
    r"over.?quota|quota.{0,20}exceed|exceed.{0,30}quota|\bdisk ?quota|out of (storage|quota)",
    r"(too many|zuviele) (messages|mails) (on|in|auf)",
    r"OverQuota|not enough .{0,20}space.{0,30}(mailbox|account)",
    r"(postfach|mailbox|speicher).{0,30}\bvoll|kontingent.{0,30}(überschritten|erreicht)",
    r"bo[iî]te.{0,60}\b(pleine|satur)|quota.{0,20}d[ée]pass",
    r"(buz[oó]n|bandeja|cuota|casilla).{0,40}(llen[oa]|excedid|super)",
    r"(casella|mailbox).{0,30}\bpiena|caixa.{0,40}(cheia|lotada)|(postbus|postvak"
    r"|mailbox).{0,20}\bvol\b",
    r"ящик.{0,30}переполнен|skrzynka.{0,30}(pełna|przepełniona)|przekroczon.{0,30}(limit|pojemno)",
    r"(邮箱|信箱|郵箱).{0,20}(已?满|滿|容量|空间)|容量.{0,12}(超|いっぱい|一杯|オーバー|不足)",
    r"メールボックス.{0,20}(いっぱい|一杯|満杯|容量)|(용량|편지함).{0,20}(초과|부족|가득)",
)

# --- Large, blocked -----------------------------------------------------------------------------

LARGE: Final = re.compile(
    r"\b(message|mail|size|content|data)\b.{0,30}(too (large|big)|exceed)|exceed.{0,30}size"
    r"|(larger|bigger) than (the )?(maximum|limit|current)|RecipSizeLimit|SIZE=",
    re.I,
)
SURELY_LARGE: Final = _any(
    r"(message|mail) size.{0,20}exceed|(message|mail|size).{0,12}too (large|big)"
    r"|exceed.{0,20}message size"
)
BLOCKED: Final = _any(
    r"\bDNS[BW]L|\bRBL\b|\bblock|blacklist|denylist|spam|junk|(?<!not )listed (in|at|by|on)",
    r"reputation|unsolicited|bulk (e-?)?mail|mass mail|\bvirus|malware|\bphish|\bbanned\b",
    r"prohibit|\brelay(ing)?\b.{0,30}(denied|not permitted|not allowed|access|prohibit)",
    r"(not|unable|unwilling) to relay|rcpthosts|as a relay|do(n't| not) relay",
    r"\bSPF\b|\bDMARC\b|reverse (DNS|lookup)|no PTR|\bHELO\b|\bEHLO\b|content filter",
    r"(not allowed|not permitted|not authori[sz]ed|unauthori[sz]ed|permission).{0,20}\b(to|send)",
    r"not accepting (mail|messages?) from|sender.{0,30}(verif|reject|denied|refused|invalid"
    r"|unknown)",
    r"(unverified|unknown|invalid|bad) (sender|return path)|whitelist|client host",
)
ABOUT_THE_SENDER: Final = _any(
    r"\bsender\b|\bheader|mail from|from address|return.path|envelope.from|client host|your (ip"
    r"|host|server|domain|reverse)"
)

# --- Gone for good ------------------------------------------------------------------------------

FOR_NOW: Final = _any(
    r"temporar|try (again )?later|not found, try again|at this time|\bbusy\b|too many"
    r"|vorübergehend|temporaire|一時的"
)

GONE: Final = _any(
    # a thing, and what is wrong with it
    r"\b(user|recipient|rcpt|mail ?box|address(ee)?|account|alias|person|member|userid)s?\b"
    r".{0,60}("
    r"unknown|not (be )?(found|known|exist|listed|recogni[sz]ed|valid|registered|present|local"
    r"|active"
    r"|available)|n[o']t a (valid|known|local|recogni[sz]ed)|(does|do)( not|n.t) (exist|have)"
    r"|invalid|(?<!server )unavai?l?able|unroute?able|undefined|closed|deleted|terminated"
    r"|archived|non-?existent|inactive|deactivated|discontinued"
    r"|no longer|has (been )?(moved|removed|cancel+ed)|is expired"
    r"|couldn't be found|wrong or|not a final)",
    # what is wrong, and with which thing
    r"\b(unknown|no such|invalid|unroute?able|non[- ]?existent|bad|undeliverable|illegal"
    r"|inactive"
    r"|obsolete|deactivated|not an? (known|valid|local|active|existing|recogni[sz]ed"
    r"|email))\b.{0,24}"
    r"\b(users?|recipients?|mail ?box|address|account|person|here|alias|local.?part|userid)\b",
    r"\bno (mail ?box|account|users?|one|valid recipients?|email address|recipient)\b",
    r"n't have an?\ .{0,40}(account|mailbox)|not our customer|no longer (with|works?|on server)",
    r"not (listed|found|present) in .{0,20}(directory|address book)|unknown or (illegal|not)",
    r"badrcptto|badrecipientto|validrcptto|NoSuchUser|Recip(ient)? ?NotFound|LocalRecipNotFound",
    r"\b(user|recipient|addressee)s? (unknown|not found)|unknown[- ](user|recipient)"
    r"|no such (user|mailbox)",
    r"(does not|doesn't|did not) (exactly )?(match|have) .{0,30}(address|delivery point)"
    r"|account expired",
    r"OFR_?(006_)?41[68]|archived recipient|missing home directory|user not local"
    r"|address changed|has moved|has been replaced by",
    r"can't accept user|no .{1,40} in name directory|^\s*does not exist|address no longer"
    r"|unrecogni[sz]ed (recipient|o/r name)|no matches to nameserver query|never existed"
    r"|no existing (user|mailbox)",
)
GONE_ELSEWHERE: Final = _any(
    # German
    r"(benutzer|empf(ä|ae?)nger|adress(e|at)|mailbox|postfach|konto|teilnehmer).{0,60}(unbekannt"
    r"|ungültig"
    r"|nicht (gefunden|bekannt|vorhanden|existent|verfügbar|mehr)|existiert nicht|gibt es nicht)",
    r"(unbekannte[rn]?|ungültige[rn]?|kein solche[rns]?) (benutzer|empf|adress|postfach|user)",
    # French
    r"(utilisateur|destinataire|adresse|bo[iî]te|compte).{0,60}(inconnue?|n.existe (pas|plus)"
    r"|introuvable"
    r"|inexistante?|invalide|pas (été )?trouv|désactivé)",
    # Spanish, Italian, Portuguese
    r"(usuario|destinatario|direcci[oó]n|buz[oó]n|cuenta).{0,60}(desconocid|no existe"
    r"|no se (ha )?encontr"
    r"|no (es )?v[aá]lid|inexistente|inv[aá]lid)|no existe .{0,20}(usuario|persona|cuenta|buz)"
    r"|no se (ha )?encontr.{0,12} (la |el )?(direcci|usuario|destinatario)",
    r"(utente|destinatario|indirizzo|casella|account).{0,60}(sconosciut|non (esiste|valid"
    r"|è stato trovat"
    r"|è stata trovat|trovat)|inesistente)|nessun utente|impossibile trovare l.indirizzo",
    r"(usu[aá]rio|destinat[aá]rio|endere[cç]o|caixa|conta).{0,60}(desconhecid|n[aã]o (existe"
    r"|foi (encontr"
    r"|localiz)|encontr|é válid)|inexistente|inv[aá]lid)",
    # Dutch, the north
    r"(gebruiker|ontvanger|adres|postvak|account).{0,60}(onbekend|bestaat niet"
    r"|niet (worden )?gevonden"
    r"|ongeldig)",
    r"onbekende (gebruiker|ontvanger)",
    r"(mottagare|adress|användare|postlåda|modtager|mottaker|bruger|bruker"
    r"|postkasse).{0,60}(okänd|ukendt|ukjent"
    r"|finns inte|findes ikke|finnes ikke|(kunde|kunne|gick) (inte|ikke) (att )?(hitta|finde"
    r"|finne))",
    r"(vastaanottaja|käyttäjä|osoite).{0,60}(ei (löyt|ole)|tuntematon)",
    # Slavic, Hungarian, Turkish, Greek
    r"(konto|adresat|odbiorca|użytkownik|uzytkownik|adres|skrzynka).{0,60}(nie ?istnieje|nieznan"
    r"|nie (znaleziono"
    r"|został)|niedost)|nie istnieje|nie ma takiego|nieznany (użytkownik|odbiorca|adresat)",
    r"(uživatel|příjemce|adresa|schránka).{0,60}(neexist|neznám|nenalezen)|neexistuje",
    r"(пользовател|адрес|ящик|получател|почтов|аккаунт).{0,60}(не ?найден|не существует|неизвест"
    r"|удал[её]н|отсутствует|недействител)|нет такого|такого (пользователя|ящика|адреса) н"
    r"|неизвестный (пользов|адрес|получ)",
    r"(címzett|felhasználó|cím).{0,60}(ismeretlen|nem (létezik|található))",
    r"(kullan.c.|al.c.|adres).{0,60}(bulunamad|bilinm|mevcut değil|yok)",
    r"(παραλήπτη|διεύθυνση|χρήστη).{0,60}δεν (βρέθηκε|υπάρχει)",
    # Chinese, Japanese, Korean
    r"(用户|用戶|帐[号户]|帳[號戶]|账[号户]|邮箱|郵箱|信箱|地址|收件人|使用者"
    r"|收信人).{0,30}(不存在|找不到|未找到|无效|無效|不正确|不正確)",
    r"(无此|查无|查無|沒有此|没有这个|不存在的?|找不到|无效的?)(用户|用戶|帐|帳|账|邮箱|郵箱"
    r"|地址|收件人|收信人|使用者)",
    r"(宛先|あて先|ユーザ|アドレス|メールボックス|受信者|アカウント).{0,40}(存在しま|存在しない"
    r"|見つかりま|見つからな"
    r"|不明|間違|正しくな|ありません|無効)|リストにありません|登録されて(いませ|おりませ)"
    r"|(不明な|存在しない)(宛先|ユーザ|アドレス)",
    r"(사용자|수신자|계정|주소|아이디|메일).{0,30}(존재하지|없|찾을 수)|(존재하지 않는|없는"
    r"|잘못된) (사용자|계정|메일|주소|수신)",
    # Hebrew, Arabic, Vietnamese, Indonesian
    r"(הנמען|כתובת).{0,40}(לא (נמצא|קיימ)|אינה? קיימ)|لم يتم العثور على|غير موجود",
    r"(người nhận|địa chỉ|người dùng).{0,40}(không tồn tại|không tìm thấy)|(alamat"
    r"|pengguna).{0,40}tidak (ditemukan|ada)",
)
NO_HOST: Final = _any(
    r"\b(host|domain|domain name|destination|mail server)s?\b.{0,60}(unknown|not found|(does"
    r"|do)(n't| not) exist"
    r"|isn't (existent|valid)|non-?existent|not exist|couldn't be found|no such)",
    r"(unknown|no such|non-?existent|bad destination|illegal|invalid|unresolvable"
    r"|unrouteable).{0,12}"
    r"\b(host|domain|system|mail domain)s?\b",
    r"couldn't find (any host|a mail exchanger)|NXDOMAIN|no (valid )?(MX|mail exchanger)|null ?MX"
    r"|does not accept (e-?)?mail|could not find a gateway|name or service not known|host_?unknown",
    r"(domäne|domaine?|dominio|домен|домена).{0,40}(nicht gefunden|existiert nicht|n.existe pas"
    r"|introuvable"
    r"|no existe|non esiste|não existe|не существует|не найден)|域名.{0,10}(不存在|找不到"
    r"|无法解析)",
)
